"""Load: what is sent, and wrk driving it.

Rules:
- Every request is different: its own body numbers and its own unit id, from a counter. A gateway that caches by body or unit gains nothing.
- About 300 bytes of v2 infer JSON (or chat JSON for gateways that speak nothing else), five headers; the reply is about 505 bytes of JSON.
- wrk is a closed loop: latencies are those seen by a fixed number of waiting callers, not of arrivals at a fixed rate.
- Answers other than 2xx and broken connections are counted; a row with any is not a measurement and is marked.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPLY_BYTES = 505
MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Traffic:
    """The shape of requests a peer understands."""

    path: str
    body_template: str
    """Lua and Python format taking three eight-digit numbers. In JSON a digit stands before each: numbers may not begin with 0."""
    headers: tuple[tuple[str, str], ...] = ()


def v2_traffic(headers: tuple[tuple[str, str], ...] = (), model: str = MODEL) -> Traffic:
    """Return v2 infer requests for `model`."""
    names = ("income", "debt", "age_days")
    tensors = ",".join(f'{{"name":"{n}","shape":[1],"datatype":"FP64","data":[1%08d.5]}}' for n in names)
    padding = "x" * 48
    body = f'{{"parameters":{{"note":"{padding}"}},"inputs":[{tensors}]}}'
    return Traffic(f"/v2/models/{model}/infer", body, headers)


def chat_traffic(model: str, path: str = "/v1/chat/completions", *, names_model: bool = True) -> Traffic:
    """Return chat completions, for gateways of language models."""
    named = f'"model":"{model}",' if names_model else ""
    padding = "x" * 160
    body = f'{{{named}"messages":[{{"role":"user","content":"%08d %08d %08d {padding}"}}],"max_tokens":64}}'
    return Traffic(path, body)


def v2_reply() -> bytes:
    """Return the upstream's answer to every v2 call, `REPLY_BYTES` long."""
    document = {
        "model_name": MODEL,
        "model_version": "1",
        "parameters": {"note": ""},
        "outputs": [
            {"name": "prediction", "shape": [1], "datatype": "INT64", "data": [1]},
            {"name": "score", "shape": [1], "datatype": "FP64", "data": [0.8125]},
        ],
    }
    return _padded(document, document["parameters"])


def chat_reply() -> bytes:
    """Return the upstream's answer to every chat call, `REPLY_BYTES` long."""
    message = {"role": "assistant", "content": ""}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60},
    }
    return _padded(document, message)


def _padded(document: dict[str, Any], holder: Any) -> bytes:
    key = "note" if "note" in holder else "content"
    holder[key] = "y" * (REPLY_BYTES - len(json.dumps(document, separators=(",", ":"))))
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What wrk saw. Latencies in microseconds."""

    requests: int
    duration_s: float
    not_2xx: int
    broken: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float

    @property
    def is_clean(self) -> bool:
        """Every call was answered with 2xx."""
        return self.requests > 0 and self.not_2xx == 0 and self.broken == 0


def request_example(traffic: Traffic, number: int = 7) -> bytes:
    """Return one body, as wrk sends it."""
    return (traffic.body_template % (number, number, number)).encode()


def lua_script(traffic: Traffic, host: str) -> str:
    """Return the wrk script: whole requests put together by hand, as `wrk.format` would cost more than some gateways."""
    length = len(request_example(traffic))
    headers = "".join(f"{name}: {value}\\r\\n" for name, value in traffic.headers)
    head = (
        f"POST {traffic.path} HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Type: application/json\\r\\n"
        f"Accept: application/json\\r\\n{headers}Content-Length: {length}\\r\\nAssay-Unit: u"
    )
    return f"""
local counter, threads = 0, 0
function setup(thread) thread:set("start", threads * 40000000); threads = threads + 1 end
function init() counter = start end
local head = '{head}'
local body = '{traffic.body_template}'
function request()
  counter = counter + 1
  return head .. string.format('%08d', counter) .. '\\r\\n\\r\\n' .. string.format(body, counter, counter * 7 % 99999989, counter * 31 % 99999989)
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT {{"requests":%d,"duration_us":%d,"not_2xx":%d,"broken":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f,"max":%.1f}}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"""


def run_wrk(port: int, traffic: Traffic, *, connections: int, seconds: float, cores: str | None) -> LoadResult:
    """Drive `traffic` at a local port for whole seconds and return what wrk saw.

    Raises:
        RuntimeError: wrk failed or printed no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        script.write_text(lua_script(traffic, f"127.0.0.1:{port}"))
        pinned = ["taskset", "-c", cores] if cores else []
        command = [*pinned, "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), f"http://127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    return parse_result(done.stdout + done.stderr)


def parse_result(output: str) -> LoadResult:
    """Read the line that `done` of the script printed."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            seen = json.loads(line.removeprefix("RESULT "))
            return LoadResult(
                requests=seen["requests"],
                duration_s=seen["duration_us"] / 1e6,
                not_2xx=seen["not_2xx"],
                broken=seen["broken"],
                p50_us=seen["p50"],
                p99_us=seen["p99"],
                p999_us=seen["p999"],
                max_us=seen["max"],
            )
    raise RuntimeError(f"wrk printed no result: {output.strip()[-400:]}")
