"""Chromium, driven over its DevTools protocol: any width, light and dark, and a moving pointer."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)
_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-component-update --disable-background-networking --hide-scrollbars "
    "--remote-debugging-port=0"
).split()


class Browser:
    """A browser with one page, offline; close it."""

    def __init__(self, folder: Path) -> None:
        assert EXECUTABLE is not None
        folder.mkdir()
        offline = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"  # it calls home
        command = [EXECUTABLE, *_OPTIONS, offline, f"--user-data-dir={folder}", "about:blank"]
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        with (folder.parent / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._do(self._connect(self._port(folder)))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def show(self, page: Path | str, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Open a file or an address as a screen of this width shows it."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        # A new place in the same document would keep its state; and an earlier page whose server
        # has ended may still ask it.
        self.call("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")
        self.errors.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press and release a key, ``Tab`` say."""
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
            code = codes[key]
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a screenshot, of the whole page or of the window."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        self._do(self._disconnect())
        self._loop.close()
        self._process.terminate()
        self._process.wait(30)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One call of the protocol."""
        found: dict[str, Any] = self._do(self._call(method, params))
        return found

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, **{k: size[k] for k in ("width", "height")}, "scale": 1}}

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression in the page is true."""
        deadline = time.monotonic() + 60
        while not self.ask(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)

    def _port(self, folder: Path) -> str:
        place, deadline = folder / "DevToolsActivePort", time.monotonic() + 60
        while not place.exists() or "\n" not in place.read_text():
            assert self._process.poll() is None and time.monotonic() < deadline, "no browser"
            time.sleep(0.05)
        return place.read_text().split("\n")[0]

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(work, 60))

    async def _connect(self, port: str) -> None:
        import aiohttp  # conftest.py imports this file, also where tests need torch alone

        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [each for each in await answer.json() if each["type"] == "page"]
        self._socket = await self._session.ws_connect(
            pages[0]["webSocketDebuggerUrl"], max_msg_size=0
        )

    async def _disconnect(self) -> None:
        await self._socket.close()
        await self._session.close()

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.errors.append(json.dumps(message["params"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests; skips where there is none."""
    if EXECUTABLE is None:
        pytest.skip(f"needs one of {', '.join(NAMES)}")
    found = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield found
    found.close()
