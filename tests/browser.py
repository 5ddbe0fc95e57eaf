"""Chromium without a window, driven by its DevTools protocol over a websocket."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from servers import program
from websockets.sync.client import connect

PATIENCE = 30.0
"""Seconds after which a step has failed."""


class Browser:
    """One page. folder: for its profile. more: further options of the program."""

    def __init__(self, folder: Path, *more: str) -> None:
        self._opened = contextlib.ExitStack()
        options = [*more, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run"]
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-proxy-server"]
        if os.getuid() == 0:
            options.append("--no-sandbox")  # it refuses root otherwise
        self._process = subprocess.Popen(
            [program("chromium"), *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = self._port(folder / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
                page = next(one for one in json.load(answer) if one["type"] == "page")
            debugger = connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None, ping_interval=None)
            self._socket = self._opened.enter_context(debugger)
        except BaseException:
            self._end()
            raise
        self._number = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.say(f"{domain}.enable")

    def _port(self, file: Path) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            assert self._process.poll() is None, "chromium has ended"
            time.sleep(0.02)
        raise AssertionError("chromium does not answer")

    def say(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result. `complaints` collects messages of the page's console and its errors."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=PATIENCE))
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(told["params"]))
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    def open(self, address: str, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open an address in a window of that size in pixels. A narrow one is that of a telephone."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.say("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)
        self.say("Page.navigate", url=address)

    def resize(self, width: int, height: int) -> None:
        """Give the window that size in pixels."""
        phone = width < 600
        self.say(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def before_each_page(self, script: str) -> str:
        """Run a script in each page that is opened from now on, before the page's own. Returns its identifier."""
        return str(self.say("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"])

    def before_no_page(self, identifier: str) -> None:
        """Do not run that script any more."""
        self.say("Page.removeScriptToEvaluateOnNewDocument", identifier=identifier)

    def press(self, key: str) -> None:
        """Press and release a key: Tab or Enter."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.say("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.say("Input.dispatchKeyEvent", type="keyUp", **named)

    def ask(self, script: str) -> Any:
        """Evaluate an expression in the page. A promise is waited for."""
        answer = self.say("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write a screenshot as a PNG."""
        path.write_bytes(base64.b64decode(self.say("Page.captureScreenshot", format="png")["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._opened.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
