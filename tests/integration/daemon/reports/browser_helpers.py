"""A real browser, driven by the WebDriver protocol: Chromium without a screen, if the machine has one."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

_DRIVER: Final = "chromedriver"
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE: Final = 120  # seconds for anything in the browser, on a busy machine


def find_browser() -> str:
    """Return the path of a browser; skip the test where it or its driver is missing."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None or shutil.which(_DRIVER) is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    return found


class Browser:
    """A window of a size, light or dark."""

    def __init__(self, width: int = 1280, height: int = 1000, *, dark: bool = False) -> None:
        browser = find_browser()
        self._profile = tempfile.TemporaryDirectory(prefix="vectuned-browser-")
        self._driver = subprocess.Popen(
            [_DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._base = f"http://127.0.0.1:{self._read_port()}"
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            f"--user-data-dir={self._profile.name}",
        ]
        options = {"binary": browser, "args": arguments}
        created = self._send(
            "POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        )
        self._base += f"/session/{created['sessionId']}"
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        # A window cannot be as narrow as a telephone; this can.
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()
            if self._driver.stdout is not None:
                self._driver.stdout.close()
            self._profile.cleanup()

    def open(self, url: str) -> None:
        """Load a page."""
        self._send("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run a script in the page and return what it returns."""
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        until = time.monotonic() + _PATIENCE
        while not self.run(f"return Boolean({expression});"):
            assert time.monotonic() < until, (
                f"never: {expression}\n{self.run('return document.body.innerText')}"
            )
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key, a character of the WebDriver protocol for special ones."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def command(self, name: str, **parameters: Any) -> Any:
        """Run a command of the DevTools protocol."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        taken = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def errors(self) -> list[str]:
        """Return what the console of the page has logged as errors, such as what the policy forbids."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def _read_port(self) -> str:
        assert self._driver.stdout is not None
        said = ""
        for line in self._driver.stdout:
            said += line
            if match := re.search(r"started successfully on port (\d+)", line):
                return match[1]
        raise AssertionError(f"{_DRIVER} did not start: {said}")

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=_PATIENCE) as answer:
                return json.loads(answer.read())["value"]
        except HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()}") from error
