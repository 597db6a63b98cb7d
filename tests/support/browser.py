"""A real browser, headless, that a test opens pages in, gives files to and takes pictures of.

It is Chromium, told what to do by its debugging protocol over two pipes: no driver and no port.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)


class Page:
    """A tab; ``run`` evaluates JavaScript in it."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._pending, self._count, self._session = b"", 0, {}
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send a command of the protocol and return its result."""
        self._count += 1
        os.write(
            self._send,
            json.dumps({"id": self._count, "method": method, "params": params, **self._session}).encode() + b"\0",
        )
        while True:
            while b"\0" not in self._pending:
                read = os.read(self._receive, 1 << 20)
                assert read, "the browser has gone"
                self._pending += read
            text, _, self._pending = self._pending.partition(b"\0")
            message = json.loads(text)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(message["params"]))
            if message.get("id") == self._count:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def open(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Wait for an expression to become true."""
        until = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < until, f"{condition} stays false: {self.run('document.body.innerText')}"
            time.sleep(0.02)

    def look(self, *, width: int, height: int = 800, scheme: str = "light") -> None:
        """Set the size of the window, and light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file, as by the browser's own dialogue."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def drop(self, selector: str, file: Path) -> None:
        """Drag a file from the desktop onto an element and drop it."""
        place = f"document.querySelector('{selector}').getBoundingClientRect()"
        x, y = self.run(f"(at => [at.x + at.width / 2, at.y + at.height / 2])({place})")
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Give an empty tab of a browser whose profile lies in a folder."""
    (commands, send), (receive, answers) = os.pipe(), os.pipe()
    command = shlex.join(["chromium", *OPTIONS.split(), f"--user-data-dir={folder}", "about:blank"])
    script = f"exec {command} 3<&{commands} 4>&{answers}"  # the two that the protocol is spoken on
    process = subprocess.Popen(
        ["bash", "-c", script], pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(commands)
    os.close(answers)
    try:
        yield Page(send, receive)
    finally:
        os.close(send)
        os.close(receive)
        process.terminate()
        process.wait(20)
