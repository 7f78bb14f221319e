"""CPU per call of the native transport as a bare proxy, against nginx doing the same.

Both proxies run on core 0, wrk and the model (nginx, `return 200`) on core 1. Rounds are interleaved, so that a busy machine hits both
alike; the figures are the median of the rounds and, for a machine that is busy with other things, the lowest one. CPU is utime + stime of
the proxy's process from `/proc`, divided by the requests wrk counted.

Usage: ``python benchmarks/transport.py [--rounds 5] [--seconds 3] [--connections 32] [--json]``. Needs `nginx`, `wrk` and `taskset`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL_PORT, NGINX_PORT, NATIVE_PORT = 18081, 18082, 18083
REPLY = '{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"' + "x" * 400 + '"}}]}'
WRK_SCRIPT = """
wrk.method = "POST"
wrk.body = '{"user":"u1","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"pad":"' .. string.rep("p", 200) .. '"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer 0123456789abcdef0123456789abcdef"
wrk.headers["X-Request-Id"] = "6a2f0b1c"
"""
NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/{name}.pid; error_log {directory}/{name}.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {directory}/{name}-body; proxy_temp_path {directory}/{name}-proxy;
  fastcgi_temp_path {directory}/{name}-f; uwsgi_temp_path {directory}/{name}-u; scgi_temp_path {directory}/{name}-s;
  upstream model {{ server 127.0.0.1:{model}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port}; default_type application/json;
    location / {{ {location} }}
  }}
}}
"""


def nginx(directory: Path, name: str, port: int, location: str, core: int) -> subprocess.Popen[bytes]:
    """Start an nginx of one process."""
    path = directory / f"{name}.conf"
    path.write_text(NGINX.format(directory=directory, name=name, port=port, model=MODEL_PORT, location=location))
    return subprocess.Popen(["taskset", "-c", str(core), "nginx", "-c", str(path)], stderr=subprocess.DEVNULL)


def cpu_s(pid: int) -> tuple[float, float]:
    """Return the user and system seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


def measure(port: int, pid: int, connections: int, seconds: int, script: Path) -> dict[str, float]:
    """Load one proxy; return CPU in microseconds per call, calls per second, p50 and p99 in milliseconds."""
    user, system = cpu_s(pid)
    url = f"http://127.0.0.1:{port}/v2/models/m/infer"
    wrk = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    out = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    user_after, system_after = cpu_s(pid)
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"errors under load:\n{out}")
    count = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index] # wrk always says so
    latency = {mark: float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit] for mark, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", out)}
    user_us, system_us = (user_after - user) / count * 1e6, (system_after - system) / count * 1e6
    return {
        "cpu_us": user_us + system_us,
        "user_us": user_us,
        "system_us": system_us,
        "calls_per_s": count / seconds,
        "p50_ms": latency["50"],
        "p99_ms": latency["99"],
    }


def wait_until_up(port: int) -> None:
    """Return once a proxy answers."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2", data=b"{}", timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of the rounds, and the CPU of the least disturbed one."""
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {**medians, "lowest_cpu_us": min(row["cpu_us"] for row in rows)}


def run(rounds: int, seconds: int, connections: int) -> dict[str, dict[str, float]]:
    """Measure in interleaved rounds; return the medians."""
    directory = Path(tempfile.mkdtemp(prefix="assay-transport-"))
    script = directory / "post.lua"
    script.write_text(WRK_SCRIPT)
    location = 'proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";'
    processes = [nginx(directory, "model", MODEL_PORT, f"return 200 '{REPLY}';", 1)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    try:
        proxies = {
            "nginx": (NGINX_PORT, nginx(directory, "proxy", NGINX_PORT, location, 0)),
            "native": (
                NATIVE_PORT,
                subprocess.Popen(
                    ["taskset", "-c", "0", sys.executable, str(HERE / "transport_gateway.py"), str(NATIVE_PORT), str(MODEL_PORT)], env=environment
                ),
            ),
        }
        processes += [process for _, process in proxies.values()]
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in proxies}
        for port in (MODEL_PORT, NGINX_PORT, NATIVE_PORT):
            wait_until_up(port)
        for turn in range(rounds):
            for name in sorted(proxies, reverse=bool(turn % 2)):
                port, process = proxies[name]
                seen[name].append(measure(port, process.pid, connections, seconds, script))
        return {name: summary(rows) for name, rows in seen.items()}
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(10)
        shutil.rmtree(directory)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    medians = run(arguments.rounds, arguments.seconds, arguments.connections)
    if arguments.json:
        print(json.dumps(medians))
        return
    base, lowest = medians["nginx"]["cpu_us"], medians["nginx"]["lowest_cpu_us"]
    print(f"{'':8} {'CPU us/call':>12} {'(user+sys)':>14} {'x nginx':>8} {'lowest us':>10} {'x nginx':>8} {'calls/s':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for name, row in medians.items():
        parts = f"({row['user_us']:.1f}+{row['system_us']:.1f})"
        times = f"{row['p50_ms']:>8.2f} {row['p99_ms']:>8.2f}"
        low = f"{row['lowest_cpu_us']:>10.1f} {row['lowest_cpu_us'] / lowest:>8.2f}"
        print(f"{name:8} {row['cpu_us']:>12.1f} {parts:>14} {row['cpu_us'] / base:>8.2f} {low} {row['calls_per_s']:>9.0f} {times}")


if __name__ == "__main__":
    main()
