"""Makes `opa_server` of the engine's own tests importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "rego"))
