"""A headless Chromium that a test drives over the DevTools protocol, through a pair of pipes: no port, no further package.

Protocol: https://chromedevtools.github.io/devtools-protocol/ . Messages are JSON, each ended by a zero byte; the browser
reads descriptor 3 and writes descriptor 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

# WebGL in software, so that it is there on a machine without a display or a GPU.
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
PATIENCE_S = 60.0
# Of an element in the page.
PLACE = (
    "(({ x, y, width, height }) => ({ x: x + scrollX, y: y + scrollY, width, height }))(document.querySelector(%s).getBoundingClientRect())"
)


def found() -> str | None:
    """Return the path of a Chromium or Chrome on this machine, or None."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    return None


class Chromium:
    """One browser with one page; everything that the page asks for, logs or throws is kept."""

    def __init__(self, folder: Path, path: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._buffer = b""
        self._id = 0
        to_read, self._write = _pipe()
        self._read, to_write = _pipe()

        def as_three_and_four() -> None:
            os.dup2(to_read, 3)
            os.dup2(to_write, 4)

        root = ("--no-sandbox",) if os.geteuid() == 0 else ()
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio")
        arguments = (
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--hide-scrollbars",
            *SOFTWARE_GL,
            *quiet,
            *root,
        )
        self._process = subprocess.Popen(
            [path, *arguments, "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=as_three_and_four,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.opened: tuple[Any, ...] | None = None  # what is in the window
        self._target: str | None = None
        self._session = ""
        self._loaded = False

    def open(self, address: str, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Load an address in a new window of this size, CSS pixels, and wait until its scripts have run."""
        former, self._target = self._target, self._call("Target.createTarget", url="about:blank", session=False)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=self._target, flatten=True, session=False)["sessionId"]
        if former is not None:
            self._call("Target.closeTarget", targetId=former, session=False)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self._call("Emulation.setEmulatedMedia", features=[scheme, calm])
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.requests.clear()
        self.complaints.clear()
        self._loaded = False
        refused = self._call("Page.navigate", url=address).get("errorText")
        if refused:
            raise RuntimeError(f"{address}: {refused}")
        until = time.monotonic() + PATIENCE_S
        while not self._loaded:
            self._heard(self._message(until))
        self.settle()
        self.opened = (address, width, height, dark, phone)

    def settle(self) -> None:
        """Wait until what was asked to be drawn is drawn."""
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))")

    def wait(self, condition: str) -> None:
        """Wait until an expression holds. Raises TimeoutError."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self.value(condition):
                return
            time.sleep(0.05)
        raise TimeoutError(f"never true: {condition}; the page complained: {self.complaints}")

    def value(self, expression: str) -> Any:
        """Return what an expression, or its promise, is in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {" ": 32, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Tab": 9}[key]
        text = {"text": key} if key == " " else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.settle()

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Press the mouse at a place, move it to another in steps, and let go."""
        self._call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
        for i in range(1, 5):
            at = {"x": x + (to_x - x) * i / 4, "y": y + (to_y - y) * i / 4}
            self._call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **at)
        self._call("Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, button="left", clickCount=1)
        self.settle()

    def screenshot(self, selector: str | None = None, *, whole: bool = False) -> bytes:
        """Return what the window shows, or of it one element, or the whole page, as PNG."""
        clip = {} if selector is None else {"clip": {**self.value(PLACE % json.dumps(selector)), "scale": 1}}
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)["data"])

    def _call(self, method: str, *, session: bool = True, **params: Any) -> Any:
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        until = time.monotonic() + PATIENCE_S
        while True:
            answer = self._message(until)
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._heard(answer)

    def _heard(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("sessionId") != self._session:
            return
        if event["method"] == "Page.loadEventFired":
            self._loaded = True
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.complaints.append(params["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("warning", "error"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer within {PATIENCE_S:g} s")
            part = os.read(self._read, 1 << 16)
            if not part:
                raise RuntimeError(f"the browser ended, status {self._process.poll()}")
            self._buffer += part
        content, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(content)
        return message

    def close(self) -> None:
        """End the browser. May be called twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for name in ("_read", "_write"):
            if (descriptor := getattr(self, name)) >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _pipe() -> tuple[int, int]:
    """Return a pipe's ends, well away from the descriptors that the browser wants."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
