"""The recorder's process: `audit/recorder.py` with the gateway's log lines around it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from audit.recorder import main as run
from gateway import logs
from gateway.processes.parent import end_with_parent


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="gateway.processes.recorder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--parent", type=int, required=True, help="process id of the parent; this process ends with it")
    parser.add_argument("--listen", type=int, required=True, help="inherited Unix socket")
    chosen = parser.parse_args(arguments)
    end_with_parent(chosen.parent, signal.SIGINT)  # at once: the next gateway's recorder must not find the store in use
    logs.configure("recorder")
    return run(chosen.data, chosen.listen, f"{chosen.node}.recorder")


if __name__ == "__main__":
    sys.exit(main())
