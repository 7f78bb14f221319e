"""The real deployment of the gateway's own tests, and witnesses as real processes beside it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))  # its `deployment` is shared; run alone, this folder has to name where it is
