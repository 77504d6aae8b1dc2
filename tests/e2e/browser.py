"""A real browser without a window: Debian's Chromium, spoken to through a pipe by the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

_SECONDS = 60.0


class Browser:
    """A browser with one page. `errors` has what its console and its scripts complained of, `asked` what it fetched."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program is not None, "chromium is missing: package chromium"
        theirs, self._to = os.pipe()
        self._fro, ours = os.pipe()
        argv = (program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank")  # fmt: skip
        # it reads from descriptor 3 and writes to 4
        self._process = subprocess.Popen(
            ("bash", "-c", 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"', str(theirs), str(ours), *argv),
            pass_fds=(theirs, ours), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._rest, self._number = b"", 0
        self._session: str | None = None
        self._loaded = False
        self.errors: list[str] = []
        self.asked: list[str] = []
        (page,) = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._fro)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._hear(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            assert select.select([self._fro], [], [], max(end - time.monotonic(), 0))[0], "the browser is silent"
            piece = os.read(self._fro, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _hear(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.errors.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.errors.append(str(told["entry"]))
            case "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])

    def open(self, page: Path, *, width: int = 1280, height: int = 800, dark: bool = False, media: str = "") -> None:
        """Show a file on a screen of some size, of a phone if it is small."""
        small = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=small,
                  deviceScaleFactor=2 if small else 1)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self.errors.clear()
        self.asked.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._hear(self._next())

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is, as JSON has it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{where}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        middle = "({x, y, width, height}) => [x + width / 2, y + height / 2]"
        at = self.value(f"({middle})({where}.getBoundingClientRect())")
        self.mouse("mousePressed", *at, button="left", clickCount=1)
        self.mouse("mouseReleased", *at, button="left", clickCount=1)

    def mouse(self, what: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, **more)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        for what in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=what, key=key, code=key, text=key if len(key) == 1 else "")

    def picture(self, to: Path, *, whole: bool = True) -> None:
        """Write a picture of what is shown, or of the whole page: for people to look at."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        to.write_bytes(base64.b64decode(found["data"]))
