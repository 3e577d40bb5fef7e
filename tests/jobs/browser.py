"""A headless Chromium, driven through a pipe by the DevTools protocol, so that it needs no driver, library or port.

https://chromedevtools.github.io/devtools-protocol/: the browser reads its commands from file descriptor 3 and writes
answers and events to 4, each one JSON object with a zero byte behind it.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_SECONDS = 60
"""For one answer, on a machine with other work to do."""

# Without these it asks for updates, and waits for a closed network.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
)

_KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " "), "ArrowRight": (39, ""), "ArrowLeft": (37, "")}
"""Name -> Windows' code of the key, which the protocol wants, and what it types."""


class Page:
    """One tab; what goes wrong in it is in `problems`, what it asked for in `requests`."""

    def __init__(self, commands: int, answers: int) -> None:
        """Open the tab of a browser at the other end of the two pipes."""
        self._commands, self._answers, self._rest, self._number = commands, answers, b"", 0
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._is_loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self._number:
            self._note(message)
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def open(self, path: Path, *, width: int = 1400, scheme: str = "light", runs_scripts: bool = True) -> None:
        """Show a file in a window of this width, to a person who prefers this colour scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not runs_scripts)
        self.problems.clear()
        self.requests.clear()
        self._is_loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._is_loaded:
            self._note(self._receive())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key goes down and up."""
        code, text = _KEYS[key]
        how = {"key": text if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **how)
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._is_loaded = True
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.problems.append(str(params["args"]))
        if method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.problems.append(str(params["entry"]))
        if method == "Page.javascriptDialogOpening":
            self.problems.append(f"a dialog opened: {params['message']}")
            # Nothing else is answered until it is closed.
            command = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self._commands, json.dumps(command | {"sessionId": self._session}).encode() + b"\0")

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(end - time.monotonic(), 0))
            assert ready, f"the browser said nothing for {_SECONDS} s"
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser is gone"
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message


@contextmanager
def browse(folder: Path) -> Iterator[Page]:
    """Start a browser with an empty profile and one tab; it ends with the block."""
    (read_end, commands), (answers, write_end) = os.pipe(), os.pipe()
    # bash puts its ends of the pipes where the browser looks for them.
    shell = f'exec "$@" 3<&{read_end} 4>&{write_end}'
    browser = [str(CHROMIUM), *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}"]
    log = (folder / "chromium.log").open("wb")
    process = subprocess.Popen(
        ["/bin/bash", "-c", shell, "bash", *browser],
        pass_fds=(read_end, write_end),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    os.close(read_end)
    os.close(write_end)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)  # which ends it
        os.close(answers)
        log.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):  # its helpers, should they have outlived it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
