"""A headless Chromium that tests drive over the DevTools protocol: go to a page, ask it, wait for it, photograph it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.programs import chromium

START_SECONDS = 180
WAIT_SECONDS = 40
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip


class Tab:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.troubles: list[str] = []
        """What the page complained of: errors of its script, and requests that were refused or failed."""
        self.requested: set[str] = set()
        """Everything that it has asked for."""

    async def ask(self, method: str, **parameters: Any) -> Any:
        """One command and its answer."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message["error"]
                    return message["result"]
                self._note(message)

    async def go(self, url: str) -> None:
        await self.ask("Page.enable")
        await self.ask("Runtime.enable")
        await self.ask("Log.enable")
        await self.ask("Network.enable")
        await self.ask("Page.navigate", url=url)

    async def value(self, script: str) -> Any:
        """What an expression of JavaScript says."""
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression says something that is true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (found := await self.value(script)):
            assert time.monotonic() < deadline, f"{script} stays false; troubles: {self.troubles}"
            await asyncio.sleep(0.1)
        return found

    async def photograph(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> bytes:
        """The page as a PNG."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[scheme])
        answer = await self.ask("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.troubles.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.troubles.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requested.add(parameters["request"]["url"])


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A browser with one empty tab."""
    program = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program, *FLAGS, f"--user-data-dir={folder}", "about:blank",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = await _port(Path(folder) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession(trust_env=False) as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = [one for one in await answer.json() if one["type"] == "page"]
                async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            process.terminate()
            await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    deadline = time.monotonic() + START_SECONDS
    while not (told := await asyncio.to_thread(_told, file)):
        assert process.returncode is None, f"the browser ended with {process.returncode}"
        assert time.monotonic() < deadline, "the browser does not start"
        await asyncio.sleep(0.1)
    return int(told.split()[0])


def _told(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""
