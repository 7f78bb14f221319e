"""A real Chromium, driven over its debugging pipe: pages as people see them, and what the browser refuses or complains of.

Example:
    with Browser(folder) as browser:
        browser.sign_in(deployment.admin, secret)
        page = browser.open(f"{deployment.admin}/vault", width=400, dark=True)
        page.overflows, page.complaints
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


@dataclass
class Page:
    """One page as it was shown."""

    status: int
    text: str
    """What a reader sees, without markup."""
    overflows: bool
    """Whether it is wider than the window: then a reader has to scroll sideways for every line."""
    complaints: list[str] = field(default_factory=list)
    """What the browser logged: refused by the page's own policy, not found, errors of scripts."""


class Browser:
    """One Chromium with one tab. Owned by the test that opened it."""

    def __init__(self, folder: Path) -> None:
        """Start it with its profile in `folder`."""
        program = shutil.which("chromium")
        assert program is not None
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()

        def place() -> None:
            # It reads its descriptor 3 and writes its descriptor 4; whatever number the pipes have here must not be overwritten by that.
            read_end, write_end = os.dup2(theirs_in, 60), os.dup2(theirs_out, 61)
            os.dup2(read_end, 3)
            os.dup2(write_end, 4)

        self._process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=place,  # noqa: PLW1509 - no thread of this process holds a lock it would need
            close_fds=False,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number = 0
        self._read = b""
        self._events: list[dict[str, Any]] = []
        targets = self._ask("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", session=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        os.close(self._to)
        os.close(self._from)

    def sign_in(self, admin: str, secret: str) -> None:
        """Sign in on the console with a key, as the form does it."""
        answer = httpx.post(f"{admin}/login", data={"key": secret}, timeout=20)
        assert answer.status_code == 303, answer.text
        self._ask("Network.setCookie", session=True, name="assay-session", value=answer.cookies["assay-session"], url=admin, httpOnly=True)

    def open(self, url: str, *, width: int = 1100, height: int = 900, dark: bool = False) -> Page:
        """Show a page in a window of this size."""
        self._events.clear()
        self._ask("Emulation.setDeviceMetricsOverride", session=True, width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self._ask("Emulation.setEmulatedMedia", session=True, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._ask("Page.navigate", session=True, url=url)
        self._await(lambda event: event.get("method") == "Page.loadEventFired")
        response = next(
            event["params"]["response"]
            for event in reversed(self._events)
            if event.get("method") == "Network.responseReceived" and event["params"]["type"] == "Document"
        )
        wide = self.evaluate("document.documentElement.scrollWidth")
        return Page(response["status"], str(self.evaluate("document.body.innerText")), wide > width, self._complaints())

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        return self._ask("Runtime.evaluate", session=True, expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what the page looks like, all of its length."""
        length = int(self.evaluate("document.documentElement.scrollHeight"))
        width = int(self.evaluate("innerWidth"))
        self._ask("Emulation.setDeviceMetricsOverride", session=True, width=width, height=length, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", session=True, format="png")["data"]))

    def _complaints(self) -> list[str]:
        told = []
        for event in self._events:
            if event.get("method") == "Log.entryAdded":
                told.append(event["params"]["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                told.append(event["params"]["exceptionDetails"]["text"])
        return told

    def _ask(self, method: str, *, session: bool = False, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params} | ({"sessionId": self._session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._await(lambda event: event.get("id") == number)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        found: dict[str, Any] = answer["result"]
        return found

    def _await(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read messages until the wanted one; keep the others. A browser that ends closes the pipe, and the test's own time limit bounds the rest."""
        while True:
            while b"\0" not in self._read:
                data = os.read(self._from, 1 << 20)
                assert data, "the browser has ended"
                self._read += data
            line, _, self._read = self._read.partition(b"\0")
            event = json.loads(line)
            self._events.append(event)
            if wanted(event):
                return event
