"""Headless Chromium over the DevTools protocol, spoken through a pipe, so that no further package is needed.

with Browser(executable, folder) as browser:
    page = browser.open(path, width=380, dark=True)
    page.evaluate("document.title")
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

TIMEOUT_S = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-color-profile=srgb",
)


class Browser:
    """One Chromium process; `events` holds everything it reported."""

    def __init__(self, executable: str, folder: Path) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        read, self._write = _pipe()
        self._read, write = _pipe()
        log = os.open(folder / "chromium.log", os.O_WRONLY | os.O_CREAT, 0o600)
        # The log first: its number may be 3 or 4.
        actions = [
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, read, 3),
            (os.POSIX_SPAWN_DUP2, write, 4),
        ]
        arguments = [executable, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self._pid = os.posix_spawn(executable, arguments, environment, file_actions=actions, setpgroup=0)
        for end in (read, write, log):
            os.close(end)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events on the way are kept."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT_S
        while True:
            found = self._receive(until)
            if found.get("id") == number:
                assert "error" not in found, f"{method}: {found['error']}"
                result = found["result"]
                assert isinstance(result, dict)
                return result
            self.events.append(found)

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event, past or to come, that is wanted."""
        until = time.monotonic() + TIMEOUT_S
        for event in self.events:
            if wanted(event):
                return event
        while True:
            event = self._receive(until)
            self.events.append(event)
            if wanted(event):
                return event

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium did not answer in time"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def open(
        self, path: Path, *, width: int = 1100, height: int = 900, dark: bool = False, media: str = "screen"
    ) -> Page:
        """A page with the file in it, loaded to its end."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.call(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads), eventsEnabled=True)
        page.call("Page.navigate", url=path.as_uri())
        self.wait(lambda e: e.get("method") == "Page.loadEventFired" and e.get("sessionId") == session)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Console messages, exceptions and log entries."""
        found = []
        for event in self._events("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            found.append(json.dumps(event["params"]))
        return found

    def requests(self) -> list[str]:
        """Addresses the page asked for."""
        return [str(e["params"]["request"]["url"]) for e in self._events("Network.requestWillBeSent")]

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        mine = [e for e in self.browser.events if e.get("sessionId") == self.session]
        return [e for e in mine if e.get("method") in methods]

    def download(self, selector: str) -> bytes:
        """What is saved when the one link that matches is clicked."""
        begun = len(self.browser.events)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        browser = self.browser

        def done(event: dict[str, Any]) -> bool:
            return event.get("method") == "Browser.downloadProgress" and event["params"]["state"] == "completed"

        while not any(done(e) for e in browser.events[begun:]):
            browser.events.append(browser._receive(time.monotonic() + TIMEOUT_S))
        begin = next(e for e in browser.events[begun:] if e.get("method") == "Browser.downloadWillBegin")
        return (browser.downloads / begin["params"]["suggestedFilename"]).read_bytes()

    def screenshot(self, path: Path, *, top: float = 0.0, height: float = 900.0) -> None:
        """A PNG of the page from `top` on, as wide as the page."""
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


def _pipe() -> tuple[int, int]:
    # Numbers above those the child uses, so that no end is overwritten before it is copied.
    low = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in low]
    for end in low:
        os.close(end)
    return ends[0], ends[1]
