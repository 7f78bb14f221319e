"""What the processes of running gateways cost: CPU of each, from the kernel's own count, over some seconds.

Usage: `python -m benchmarks.controllers DATA [DATA ...] [--seconds 20]`, each DATA the data directory of a gateway on this machine; several show what
following costs beside leading.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def processes(data_dirs: list[Path]) -> dict[tuple[str, str], Path]:
    """Return (data directory, process) -> folder under /proc of every process of these gateways."""
    wanted = {str(path.absolute()): path.absolute().parent.name for path in data_dirs}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        name = next((word.rpartition(".")[2] for word in words if word.startswith("gateway.processes.")), None)
        data = words[words.index("--data") + 1] if "--data" in words else ""
        if name is not None and data in wanted:
            found[wanted[data], name + (f" {words[words.index('--index') + 1]}" if name == "worker" else "")] = folder
    return found


def cpu_s(folder: Path) -> float:
    """Return user and system time of a process and its threads so far."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    found = processes(chosen.data)
    before, began_s = {key: cpu_s(folder) for key, folder in found.items()}, time.monotonic()
    time.sleep(chosen.seconds)
    passed_s = time.monotonic() - began_s
    for key, folder in sorted(found.items()):
        spent = cpu_s(folder) - before[key]
        print(f"{key[0]:12} {key[1]:14} {spent / passed_s * 100:6.2f} % of a core")


if __name__ == "__main__":
    main()
