"""The download of a tokenizer gives a router what it needs, or lets it start without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from paceline_worker.router.tokens.download import main


@contextmanager
def hub(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Refusing(BaseHTTPRequestHandler):
    """Says no."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Hanging(Refusing):
    """Says nothing until the other side has gone."""

    def do_GET(self) -> None:
        self.connection.recv(1)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for


@pytest.mark.parametrize(("handler", "seconds"), [(Refusing, "60"), (Hanging, "3")])
def test_a_hub_that_refuses_or_hangs_keeps_no_router_from_starting(
    handler: Any, seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(handler) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        folder = tmp_path / "tokenizer"
        assert main(["--repository", "own/er", "--into", str(folder), "--seconds", seconds]) == 0
    assert not list(folder.glob("*.json"))
