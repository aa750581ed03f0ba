"""A headless Chromium, spoken to in the DevTools protocol over a pair of pipes: no driver needed."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
FLAGS += ["--remote-debugging-pipe"]
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """A tab, and what it has said so far: `errors` of its console, `requests` by address."""

    def __init__(self, send: int, receive: int):
        self.send = send
        self.receive = receive
        self.buffer = b""
        self.last_id = 0
        self.session = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def read(self) -> dict:
        """The next message of the browser."""
        while b"\0" not in self.buffer:
            chunk = os.read(self.receive, 1 << 20)
            assert chunk, "the browser is gone"
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def note(self, event: dict) -> None:
        """Keep what a test asks about."""
        method = event.get("method")
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.errors.append(json.dumps(event["params"]))
        if method == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])

    def call(self, method: str, **parameters) -> dict:
        """Send a command and return its result."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.last_id:
                assert "error" not in answer, answer
                return answer["result"]
            self.note(answer)

    def js(self, expression: str) -> object:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, holds: Callable[[], object]) -> None:
        """Until a condition holds, at most a minute: machines may be busy."""
        deadline = time.time() + 60
        while not holds():
            assert time.time() < deadline, "waited in vain"
            time.sleep(0.02)

    def open(self, path: Path, state: str = "") -> None:
        """Load the page afresh with this state in its address."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=f"{path.as_uri()}#{state}")
        self.wait(
            lambda: self.js("document.readyState == 'complete' && location.protocol == 'file:'")
        )

    def size(self, width: int, height: int, is_phone: bool = False) -> None:
        """The window's size in pixels."""
        screen = {"width": width, "height": height, "mobile": is_phone}
        self.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **screen)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mousePressed, mouseMoved or mouseReleased with the left button."""
        buttons = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **buttons)

    def press(self, key: str) -> None:
        """Press and release a key."""
        pressed = {"key": key, "windowsVirtualKeyCode": KEY_CODES.get(key, ord(key[0]))}
        text = key if len(key) == 1 else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A browser with one tab."""
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()
    # It reads descriptor 3 and writes 4, which a shell gives it; until then both are out of the way.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
    start = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["bash", "-c", start, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, pass_fds=ends, **silent)
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        try:
            yield Page(send, receive)
        finally:
            os.close(send)
            os.close(receive)
            process.terminate()
            process.wait()
