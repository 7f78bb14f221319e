"""The recorder's process: `audit/recorder.py` with the gateway's log lines around it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audit.recorder import main as run
from gateway import logs


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gateway.processes.recorder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--listen", type=int, required=True, help="inherited Unix socket")
    chosen = parser.parse_args(arguments)
    logs.configure("recorder")
    return run(chosen.data, chosen.listen, chosen.node)


if __name__ == "__main__":
    sys.exit(main())
