"""No request chooses where an engine connects to, unless the deployment says that it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paceline.api.wire import Media
from paceline_worker.router.errors import ApiError
from paceline_worker.router.media import check_media
from paceline_worker.router.parse import Kind, Rules, parse
from tests.worker.router.fakes import MODEL, FakeEngine, bench

INLINE = "data:image/png;base64,AAAA"
FETCHED = [
    "http://169.254.169.254/latest/meta-data", "https://example.com/a.png", "file:///etc/passwd", "ftp://a/b", "//a/b",
    " data:image/png;base64,AAAA", "DATA:,x", "", "gopher://a", "/etc/passwd", 5, [], {"url": "http://a"},
]  # fmt: skip
PARTS = {
    "as the API has it": lambda url: {"type": "image_url", "image_url": {"url": url}},
    "as a string": lambda url: {"type": "image_url", "image_url": url},
    "without a type": lambda url: {"video_url": {"url": url}},
    "with another type": lambda url: {"type": "text", "text": "", "audio_url": {"url": url}},
    "of the responses API": lambda url: {"type": "input_image", "image_url": url},
}


def messages(part: Any, *, role: str = "user") -> bytes:
    return json.dumps([{"role": "system", "content": "x"}, {"role": role, "content": ["text", part]}]).encode()


def refused(text: bytes, policy: Media) -> bool:
    try:
        check_media(text, policy)
    except ApiError as error:
        return (error.status, error.param) == (400, "messages")
    return False


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("url", FETCHED, ids=repr)
def test_only_any_lets_engines_fetch(make: Any, url: Any) -> None:
    assert refused(messages(make(url)), Media.DATA_URLS)
    assert refused(messages(make(url)), Media.REFUSE)
    assert not refused(messages(make(url)), Media.ANY)


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_what_is_inline_is_refused_only_where_all_is(make: Any) -> None:
    assert refused(messages(make(INLINE)), Media.REFUSE)
    assert not refused(messages(make(INLINE)), Media.DATA_URLS)


@pytest.mark.parametrize("letter", range(len("image_url")))
def test_letters_as_escapes_hide_nothing(letter: int) -> None:
    name = "image_url"
    hidden = f"{name[:letter]}\\u{ord(name[letter]):04x}{name[letter + 1 :]}"
    text = messages(PARTS["as the API has it"]("http://a")).replace(b'"image_url":', f'"{hidden}":'.encode())
    assert refused(text, Media.DATA_URLS)


@pytest.mark.parametrize("role", ["user", "tool", "assistant", "system", "developer"])
def test_every_role_is_looked_at(role: str) -> None:
    assert refused(messages({"image_url": "http://a"}, role=role), Media.DATA_URLS)


def test_the_last_of_two_equal_keys_counts_as_it_does_for_engines() -> None:
    text = b'[{"role":"user","content":[{"image_url":"%b","image_url":"http://a"}]}]' % INLINE.encode()
    assert refused(text, Media.DATA_URLS)


def test_text_about_addresses_is_only_text() -> None:
    text = "image_url is a field: {'image_url': 'http://a'} \u00e9 \u20ac"
    assert not refused(messages({"type": "text", "text": text}), Media.REFUSE)
    assert not refused(messages({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}), Media.REFUSE)
    assert not refused(messages({"type": "image_url", "image_url": None, "uuid": "seen"}), Media.DATA_URLS)


@pytest.mark.parametrize("kind", Kind)
def test_messages_of_any_kind_of_request_are_looked_at(kind: Kind) -> None:
    body = b'{"model":"m","prompt":"a","messages":%b}' % messages({"image_url": {"url": "http://a"}})
    with pytest.raises(ApiError, match="engines fetch no media"):
        parse(kind, body, Rules(frozenset({"m"}), frozenset(), None))


async def test_no_engine_sees_a_refused_request(tmp_path: Path) -> None:
    engine = FakeEngine("a")
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": [part]}]}
    async with bench(tmp_path, engine) as router:
        for path in ("/v1/chat/completions", "/tokenize", "/v1/embeddings"):
            reply = await router.client.post(path, json=body)
            assert reply.status_code == 400
            assert "data:TYPE" in reply.json()["error"]["message"]
    assert engine.seen == []


async def test_a_deployment_may_allow_it(tmp_path: Path) -> None:
    engine = FakeEngine("a")
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": [part]}]}
    async with bench(tmp_path, engine, media=Media.ANY) as router:
        assert (await router.client.post("/v1/chat/completions", json=body)).status_code == 200
    assert engine.seen[0].body["messages"] == body["messages"]
