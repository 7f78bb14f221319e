"""A real OPA server on loopback, started, stopped, killed and held up by the test that uses it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

BATCH = """package batch

answers[index] := value if {
	some index, document in input.documents
	value := data.gen with input as document
}
"""
"""Answers many inputs in one request."""
INSTALL_HINT = f"GOFLAGS=-mod=mod go install github.com/open-policy-agent/opa@{(Path(__file__).parent / 'OPA_VERSION').read_text().strip()}"


def opa_binary() -> str | None:
    """Return the path of `opa`, or None."""
    home = Path.home() / "go/bin/opa"
    return shutil.which("opa") or (str(home) if home.is_file() else None)


class OpaServer:
    """Context manager around `opa run --server`. Owns the process; `arguments` are its further ones, for example `--bundle`."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            self.port = probe.getsockname()[1]
        binary = opa_binary()
        assert binary is not None
        self._process = subprocess.Popen(
            [binary, "run", "--server", "--addr", f"127.0.0.1:{self.port}", "--log-level", "error", "--disable-telemetry", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if self._client.get("/health?bundles").status_code == 200:
                    return self
            except httpx.HTTPError:
                time.sleep(0.05)
        raise RuntimeError("opa did not start")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(timeout=10)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server: stop it as it stands, let it go on, kill it. Returns once it has done so."""
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(timeout=10)
        while number is signal.SIGSTOP and self._is_answering():  # a stop reaches the threads of a process one by one
            time.sleep(0.01)

    def _is_answering(self) -> bool:
        try:
            httpx.get(f"{self.url}/health", timeout=0.5)
        except httpx.TimeoutException:
            return False
        return True

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, name: str, text: str) -> None:
        """Put a policy as anyone with access to the server could."""
        self._client.put(f"/v1/policies/{name}", content=text).raise_for_status()

    def load(self, text: str) -> str:
        """Load one module in place of the one before; return "" or the codes of the errors."""
        answer = self._client.put("/v1/policies/gen", content=text)
        if answer.status_code == 200:
            return ""
        return ",".join(sorted({error["code"] + ": " + error["message"] for error in answer.json().get("errors", [])})) or answer.text

    def values(self, documents: list[Any]) -> list[Any]:
        """Return the document of package `gen` for each input, or `Exception` text for an error."""
        answer = self._client.post("/v1/data/batch/answers", content=json.dumps({"input": {"documents": documents}}))
        found = answer.json().get("result") if answer.status_code == 200 else None
        if found is None or len(found) != len(documents):
            # An error ends the whole batch: ask one by one whose it is.
            return [self.value("gen", document) for document in documents]
        return [found[str(index)] for index in range(len(documents))]

    def fails_unindexed(self, text: str, document: Any, folder: Path) -> bool:
        """Tell whether OPA raises an evaluation error for `data.gen` when its rule index is switched off."""
        policy, given = folder / "gen.rego", folder / "input.json"
        policy.write_text(text, encoding="utf-8")
        given.write_text(json.dumps(document), encoding="utf-8")
        binary = opa_binary()
        assert binary is not None
        command = [binary, "eval", "--disable-indexing", "--format", "json", "--data", str(policy), "--input", str(given), "data.gen"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return '"code": "eval_' in answer.stdout

    def value(self, package: str, document: Any) -> Any:
        """Return the package's document, or `Exception` text for an error."""
        answer = self._client.post(f"/v1/data/{package}", content=json.dumps({"input": document}))
        body = answer.json()
        if answer.status_code != 200:
            return RuntimeError(json.dumps(body)[:300])
        return body.get("result")
