"""Headless Chromium, spoken to through its debugging pipe: what a page says, asks for and looks like."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser's path, if one is installed (Debian's package is `chromium`)."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Tab:
    """One tab.

    Args:
        commands: Where commands go.
        answers: Where answers and events come from, NUL between them.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._rest, self._number, self._session = b"", 0, ""
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise RuntimeError("the browser ended")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        said = found.get("params", {})
        if found.get("method") == "Runtime.exceptionThrown":
            self.console.append(json.dumps(said["exceptionDetails"]))
        if found.get("method") == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.console.append(json.dumps(said["args"]))
        if found.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.console.append(said["entry"]["text"])
        if found.get("method") == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        return found

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def open(self, page: Path, width: int, dark: bool = False, phone: bool = False) -> None:
        """Load a page at a width."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def wait(self, condition: str, seconds: float = 90) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is still false after {seconds:.0f} s")
            time.sleep(0.1)

    def key(self, name: str, code: int) -> None:
        """Press and release a key."""
        typed = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **typed)

    def picture(self, whole: bool = True) -> bytes:
        """PNG of the page."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def paper(self) -> bytes:
        """PDF of the page."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """A tab in a browser of its own.

    Args:
        folder: For the browser's own files.
    """
    program = chromium()
    assert program is not None, "expected a Chromium, found none; install Debian's package `chromium`"
    commands, answers = os.pipe(), os.pipe()
    # The browser reads descriptor 3 and writes descriptor 4; WebGL comes from software where there is no GPU.
    flags = (
        "--headless --no-sandbox --remote-debugging-pipe --use-angle=swiftshader --enable-unsafe-swiftshader "
        "--no-first-run --disable-background-networking --disable-dev-shm-usage"
    )
    line = f'exec "$0" {flags} "--user-data-dir=$1" 3<&{commands[0]} 4>&{answers[1]}'
    browser = subprocess.Popen(
        ["/bin/bash", "-c", line, program, str(folder)],
        pass_fds=(commands[0], answers[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands[0])
    os.close(answers[1])
    try:
        yield Tab(commands[1], answers[0])
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        os.close(commands[1])
        os.close(answers[0])
