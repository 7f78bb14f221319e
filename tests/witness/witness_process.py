"""`assay audit witness` as a real process."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from deployment import CHECKOUT, COMMAND, Deployment

from audit.keys import VerifierKey

BEFORE = "heartbeat: 10s}"


class WitnessProcess:
    """One witness of one deployment's log. Owned by the test that started it."""

    def __init__(self, deployment: Deployment, folder: Path, *, bind: str = "127.0.0.1:0", name: str = "witness.example/w1") -> None:
        self._words = ("--dir", str(folder), "--origin", deployment.vkey.name, "--vkey", str(deployment.vkey), "--name", name, "--json")
        self.folder = folder
        self.start(bind)

    def start(self, bind: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "audit", "witness", *self._words, "--bind", bind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=CHECKOUT
        )
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.url: str = told["url"]
        self.key = VerifierKey.parse(told["vkey"])

    def known_size(self) -> int:
        """Return the size it remembers on disk."""
        (head,) = json.loads((self.folder / "state.json").read_text()).values()
        size: int = head["size"]
        return size

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def name_witnesses(deployment: Deployment, *witnesses: tuple[str, VerifierKey]) -> None:
    """Write witnesses, (url, key), into the deployment's gateway.yaml."""
    path = deployment.layout.config / "gateway.yaml"
    listed = ", ".join(f'{{url: "{url}", key: "{key}"}}' for url, key in witnesses)
    text = path.read_text()
    assert text.count(BEFORE) == 1
    path.write_text(text.replace(BEFORE, BEFORE[:-1] + f", witnesses: [{listed}]}}"))
