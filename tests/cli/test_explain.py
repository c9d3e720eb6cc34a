"""``paceline explain``: the decision for one request as a table, from a router that answers it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from paceline.cli import run

ENGINE = {
    "name": "e-0", "role": "decode", "usable": True, "room": True, "matchedTokens": 1600, "worthTokens": 1280,
    "queue": 12.5, "compute": 400.0, "waste": 30.0, "transfer": None, "decode": 3000.0,
}  # fmt: skip
EXPLAINED = {
    "promptTokens": 2000, "exact": True, "outputTokens": 256, "decode": "e-0", "prefill": "e-1", "reason": "remote",
    "decodeCost": 3412.5, "prefillCost": 90.25, "enginesLeftOut": 3,
    "engines": [
        ENGINE,
        {**ENGINE, "name": "e-1", "role": "prefill", "transfer": 7.0},
        {**ENGINE, "name": "e-2", "room": False},
        {**ENGINE, "name": "e-3", "usable": False},
    ],
}  # fmt: skip


class FakeRouter(BaseHTTPRequestHandler):
    """Answers with what the test put into ``server.answer``."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, json.loads(body), dict(self.headers)))
        status, answer = self.server.answer
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def router() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), FakeRouter)
    server.asked, server.answer = [], (200, EXPLAINED)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def call(router: Any, tmp_path: Path, body: object, *more: str) -> int:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(body))
    return run(["explain", "--request", str(path), "--router", f"http://127.0.0.1:{router.server_port}", *more])


def test_the_choice_and_what_it_rests_on_are_shown(
    router: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(router, tmp_path, {"prompt": "x"}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "prompt: 2,000 tokens; output: 256 expected"
    assert lines[1] == "decode on e-0: 3,412.5 ms, its prompt and its output"
    assert lines[2] == "prefill on e-1: 90.2 ms until the prompt is there"
    table = [line.split() for line in lines[5:9]]
    assert table[0] == ["e-0", "decode", "1,600", "1,280", "12.5", "400.0", "30.0", "-", "3,000.0", "decode"]
    assert [row[-1] for row in table[1:]] == ["prefill", "full", "usable"]
    assert lines[9] == "and 3 more, which would cost more"


def test_a_request_is_only_explained_never_run(router: Any, tmp_path: Path) -> None:
    assert call(router, tmp_path, {"messages": [{"role": "user", "content": "hi"}]}, "--session", "s") == 0
    ((path, body, headers),) = router.asked
    assert path == "/v1/chat/completions"
    assert body == {"messages": [{"role": "user", "content": "hi"}]}
    assert (headers["x-paceline-explain"], headers["x-paceline-session"]) == ("only", "s")


def test_a_router_that_serves_tenants_only_gets_the_key_of_the_environment(
    router: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(router, tmp_path, {"prompt": "hi"})
    monkeypatch.setenv("PACELINE_API_KEY", "a-key-0123456789")
    call(router, tmp_path, {"prompt": "hi"})
    assert [headers.get("authorization") for _, _, headers in router.asked] == [None, "Bearer a-key-0123456789"]


def test_without_room_it_says_that_the_request_would_wait(
    router: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    router.answer = (200, {**EXPLAINED, "decode": None, "prefill": None, "exact": False, "engines": []})
    assert call(router, tmp_path, {"prompt": "x"}) == 0
    out = capsys.readouterr().out
    assert "no engine has room" in out
    assert "estimated from the text" in out


def test_the_answer_can_be_had_as_it_is(router: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(router, tmp_path, {"prompt": "x"}, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == EXPLAINED


@pytest.mark.parametrize(
    ("content", "said"), [("{", "must be a JSON object"), ("[1]", "must be a JSON object"), (None, "can't read")]
)
def test_a_file_that_is_no_request_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    path = tmp_path / "request.json"
    if content is not None:
        path.write_text(content)
    assert run(["explain", "--request", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_router_that_refuses_or_is_not_there_is_named(
    router: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    router.answer = (404, {"error": {"message": "model: x does not exist here"}})
    assert call(router, tmp_path, {"prompt": "x"}) == 4
    assert "answered 404" in capsys.readouterr().err
    path = tmp_path / "request.json"
    assert run(["explain", "--request", str(path), "--router", "http://127.0.0.1:9"]) == 4
    assert "can't be asked" in capsys.readouterr().err
