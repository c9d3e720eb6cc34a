"""What is kept of a stream is what was said in it, however the network cut it into pieces."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.router.resume.transcript import DONE, Transcript

HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
TOKENS = st.lists(
    st.tuples(st.lists(st.integers(0, 200_000), min_size=1, max_size=3), st.text(max_size=6)), min_size=1, max_size=12
)


def event(**choice: Any) -> bytes:
    told = {"index": 0, "logprobs": None, "finish_reason": None, **choice}
    return b"data: %b\n\n" % msgspec.json.encode({**HEAD, "choices": [told]})


def completion(said: list[tuple[list[int], str]], *, ids: bool = True) -> list[bytes]:
    """Events of a stream; with ``ids`` as an engine writes them that is asked for token ids."""
    events = []
    for place, (tokens, text) in enumerate(said):
        prompt = [1, 2, 3] if ids and place == 0 else None
        events.append(event(text=text, prompt_token_ids=prompt, token_ids=tokens if ids else None))
    return events


def cut(content: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(content) + 1) for place in places} | {0, len(content)})
    return [content[start:end] for start, end in itertools.pairwise(ends)]


@given(TOKENS, st.lists(st.integers(0, 100_000), max_size=20))
def test_the_client_sees_what_it_would_have_seen_without_it(
    said: list[tuple[list[int], str]], places: list[int]
) -> None:
    transcript = Transcript(show_ids=False)
    whole = b"".join(completion(said)) + DONE
    shown = b"".join(transcript.take(piece) for piece in cut(whole, places) if piece)
    assert shown == b"".join(completion(said, ids=False)) + DONE
    assert transcript.ids == [token for tokens, _ in said for token in tokens]
    assert transcript.tokens == len(transcript.ids)
    assert transcript.text == "".join(text for _, text in said)
    assert transcript.prompt_ids == b"1,2,3"
    assert transcript.done


@given(TOKENS)
def test_a_client_that_asks_for_ids_gets_them(said: list[tuple[list[int], str]]) -> None:
    transcript = Transcript(show_ids=True)
    whole = b"".join(completion(said)) + DONE
    assert transcript.take(whole) == whole
    assert transcript.ids == [token for tokens, _ in said for token in tokens]


@given(TOKENS, st.integers(0, 100_000))
def test_the_client_never_gets_half_an_event(said: list[tuple[list[int], str]], place: int) -> None:
    transcript = Transcript(show_ids=False)
    whole = b"".join(completion(said))
    broken = whole[: place % len(whole)]
    shown = transcript.take(broken) if broken else b""
    assert shown.count(b"data: ") == shown.count(b"\n\n")
    assert transcript.lost() == broken[len(broken) - len(broken.rpartition(b"\n\n")[2]) :]
    assert len(transcript.ids) == sum(len(tokens) for tokens, _ in said[: shown.count(b"data: ")])


def test_what_looks_like_ids_in_a_text_is_text() -> None:
    transcript = Transcript(show_ids=False)
    text = '"token_ids":[7,8] "text":"x" data: {"error": 1}'
    transcript.take(event(text=text, token_ids=[5]))
    assert transcript.ids == [5]
    assert transcript.text == text
    assert transcript.fault is None


def test_an_error_of_the_engine_is_kept_from_the_client() -> None:
    transcript = Transcript(show_ids=False)
    good = event(text="a", token_ids=[1])
    error = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n'
    assert transcript.take(good + error + DONE) == event(text="a", token_ids=None)
    assert transcript.fault == "EngineCore died"


def test_an_error_of_the_client_s_is_the_client_s() -> None:
    transcript = Transcript(show_ids=False)
    error = b'data: {"error":{"message":"too long","type":"BadRequestError","code":400}}\n\n'
    assert transcript.take(error + DONE) == error + DONE
    assert transcript.fault is None


@pytest.mark.parametrize(
    ("last", "settled"),
    [
        (event(text="a", token_ids=[1]), True),
        (event(text="ab", token_ids=[1, 2]), False),
        (event(text="", token_ids=[1]), False),
        (event(text="a"), False),
    ],
)
def test_text_and_tokens_surely_end_together_after_one_token_with_text(last: bytes, settled: bool) -> None:
    transcript = Transcript(show_ids=False)
    transcript.take(last)
    assert transcript.settled is settled


def test_what_came_since_text_and_tokens_ended_together_is_known() -> None:
    transcript = Transcript(show_ids=False)
    assert transcript.unsure() == ([], "")
    for text, ids in (("ab", [1, 2]), ("c", [3]), ("d", [4]), ("", [5]), ('"é', [6, 7])):
        transcript.take(event(text=text, token_ids=ids))
    assert transcript.unsure() == ([5, 6, 7], '"é')
    transcript.take(event(text="f", token_ids=[8]))
    transcript.take(event(text="", token_ids=[9]))
    assert transcript.unsure() == ([9], "")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_what_a_parser_took_out_of_the_text_is_noticed(field: str) -> None:
    transcript = Transcript(show_ids=False)
    transcript.take(event(delta={field: "hm"}, token_ids=[1]))
    assert transcript.opaque is not None


def test_an_event_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline_worker.router.resume.transcript.MAX_EVENT_BYTES", 100)
    transcript = Transcript(show_ids=False)
    assert transcript.take(b"data: " + b"x" * 101) == b""
    assert transcript.fault is not None


JUNK = (b"\x00\xff}{", b"data: hello", b'data: {"choices": [', b"<html>", b'data: {"id": \xff}')


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_event_breaks_the_stream_and_is_not_shown(junk: bytes) -> None:
    transcript = Transcript(show_ids=False)
    good, bad = completion([([7], "seven")])[0], junk + b"\n\n"
    assert transcript.take(good + bad + completion([([8], "eight")])[0]) == completion([([7], "seven")], ids=False)[0]
    assert transcript.fault == "something that is no event"
    assert transcript.ids == [7]


@pytest.mark.parametrize("line", [b": ping", b"event: message", b"id: 7", b"retry: 100"])
def test_events_without_data_go_on_as_they_came(line: bytes) -> None:
    transcript = Transcript(show_ids=False)
    assert transcript.take(line + b"\n\n") == line + b"\n\n"
    assert transcript.fault is None


@pytest.mark.parametrize("ids", ["[69999999999999999999999999]", "[-1]", "[4294967296]"])
def test_ids_that_no_token_has_make_the_stream_opaque(ids: str) -> None:
    transcript = Transcript(show_ids=True)
    for piece in (*completion([([5], "a"), ([6], "b")]), event(text="c", token_ids=[7]).replace(b"[7]", ids.encode())):
        assert transcript.take(piece) == piece
    assert transcript.opaque is not None or transcript.ids == [5, 6]


def test_an_event_with_no_ids_before_one_with_some_is_not_taken_for_text() -> None:
    transcript = Transcript(show_ids=True)
    for piece in completion([([5], "a"), ([6], "b")]):
        transcript.take(piece)
    transcript.take(event(text="c", token_ids=[]) + event(text="d", prompt_token_ids=None, token_ids=[7]))
    assert (transcript.text, transcript.ids) == ("abcd", [5, 6, 7])


def test_an_escape_that_is_none_is_kept_as_the_client_has_it() -> None:
    transcript = Transcript(show_ids=True)
    first, second = completion([([5], "a"), ([6], "b")])
    transcript.take(first)
    transcript.take(second.replace(b'"b"', b'"\\q"'))
    transcript.take(event(text="c", prompt_token_ids=None, token_ids=[7]).replace(b'"c"', b'"\\q"'))
    assert transcript.text.startswith("a")
