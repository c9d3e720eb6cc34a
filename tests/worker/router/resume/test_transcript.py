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
