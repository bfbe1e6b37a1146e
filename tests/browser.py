"""A headless Chromium to look at pages with, driven over the W3C's WebDriver protocol; for tests of pages."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {
    "Tab": "\ue004",
    "Right": "\ue014",
    "Left": "\ue012",
    "Down": "\ue015",
    "Up": "\ue013",
    "End": "\ue010",
    "Home": "\ue011",
}
_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--disable-dev-shm-usage",
]  # fmt: skip


def missing() -> str | None:
    """Why there is no browser here; None if there is."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: chromium, chromium-driver)" if absent else None


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, path: Path) -> None:
        _ask("POST", f"{self._session}/url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        """What a JavaScript function's body returns."""
        return _ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Press keys one after the other, on whatever has the focus."""
        values = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")]
        _ask(
            "POST",
            f"{self._session}/actions",
            {"actions": [{"type": "key", "id": "keys", "actions": actions}]},
        )

    def resize(self, width: int, height: int) -> None:
        _ask("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode(_ask("GET", f"{self._session}/screenshot", None))

    def complaints(self) -> list[str]:
        """What the browser had to say of the page: errors of scripts, and of what it asked for."""
        return [entry["message"] for entry in _ask("POST", f"{self._session}/se/log", {"type": "browser"})]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that keeps whatever it keeps in the folder `profile`."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    session = None
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "was started successfully on port" in line)
        port = line.rstrip(".\n").rsplit(" ", 1)[1]
        address = f"http://127.0.0.1:{port}"
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = f"{address}/session/{made['sessionId']}"
        yield Browser(session)
    finally:
        if session is not None:
            _ask("DELETE", session, None)
        driver.terminate()
        driver.wait()
        if driver.stdout is not None:
            driver.stdout.close()


def _ask(method: str, url: str, data: Any) -> Any:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)  # noqa: S310  # our own driver
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)["value"]
