"""What a start loads before it serves."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_that_no_call_waits_for_is_loaded_before_calls_are_served():
    program = "import sys, gateway.processes.controller; print(*sorted({'scipy', 'sqlalchemy', 'uvicorn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
