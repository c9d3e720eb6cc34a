"""What is heard of answers on their way, whatever form they have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paceline.policy.health.output import Part
from paceline.policy.health.signs import Sign
from paceline_worker.router.parse import Kind
from paceline_worker.router.wellness.listening import LOOK_EVERY, Listening
from tests.worker.router.wellness.parts import events, incoming, listening, place, relay

WELL = [f"word{number} " for number in range(100)]
RUSSIAN = list("Сегодня хорошая погода, и мы идём гулять в парк у реки, а потом обедать.")


def heard(shared: Listening) -> dict[str, int]:
    return {str(sign): count for sign, count in shared.signs.items() if count}


def ids(texts: list[str]) -> list[int]:
    known: dict[str, int] = {}
    return [known.setdefault(text, len(known) + 5) for text in texts]


def whole(text: str, reason: str = "stop", *, chat: bool = False) -> bytes:
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return json.dumps({"choices": [{"index": 0, "finish_reason": reason, **said}]}).encode()


@pytest.mark.parametrize("with_ids", [True, False], ids=["ids", "text only"])
@pytest.mark.parametrize(
    ("texts", "signs"),
    [
        (WELL, {}),
        (["!"] * 20, {"one-token": 1}),
        (WELL[:30] + ["and ", "so ", "on "] * 64, {"repetition": 1}),
        (RUSSIAN, {"script": 1}),
    ],
    ids=["well", "one token", "phrase", "script"],
)  # fmt: skip
async def test_streams_are_told_by_their_ends(texts: list[str], signs: dict[str, int], *, with_ids: bool) -> None:
    shared = listening()
    await relay(shared, incoming(), place(), events(texts, ids(texts)), ids=with_ids)
    assert heard(shared) == signs
    assert shared.answers == 1


async def test_a_stream_that_repeats_is_told_of_before_it_ends_and_once() -> None:
    shared = listening()
    texts = ["x"] * (10 * LOOK_EVERY)
    listener = shared.to(incoming(), place(), None)
    assert listener is not None
    for number, event in enumerate(events(texts, ids(texts))[:-1], start=1):
        listener.keep(event)
        if number % LOOK_EVERY == 0:
            assert listener.look(number) == number + LOOK_EVERY
    assert shared.answers == 1
    listener.end(len(texts), whole=True, gap_seconds=None)
    assert shared.answers == 1


async def test_an_answer_that_the_engine_cut_for_its_repetition_is_one() -> None:
    shared = listening()
    await relay(shared, incoming(), place(), events(WELL, ids(WELL), reason="repetition"))
    assert heard(shared) == {"repetition": 1}


async def test_a_stream_that_its_client_gave_up_says_nothing_unless_it_bears_a_sign() -> None:
    shared = listening()
    await relay(shared, incoming(), place(), events(WELL, ids(WELL)), whole=False)
    assert shared.answers == 0
    await relay(shared, incoming(), place(), events(["!"] * 20, [0] * 20), whole=False)
    assert heard(shared) == {"one-token": 1}


async def test_very_short_answers_say_nothing() -> None:
    shared = listening()
    await relay(shared, incoming(), place(), events(["a"] * 5, [7] * 5))
    assert shared.answers == 0


@pytest.mark.parametrize(
    ("asked", "signs"),
    [
        ({"prompt": "Translate, please."}, {"script": 1}),
        ({"prompt": "Скажи что-нибудь."}, {}),
        ({"prompt": [1, 2, 3]}, {}),
        ({"prompt": [{"role": "user", "content": "Скажи"}], "kind": Kind.CHAT}, {}),
        ({"prompt": [{"role": "user", "content": "Say it"}], "kind": Kind.CHAT}, {"script": 1}),
    ],
)
async def test_a_script_counts_only_where_the_prompt_is_known_to_have_none_of_it(
    asked: dict[str, Any], signs: dict[str, int]
) -> None:
    shared = listening()
    await relay(shared, incoming(**asked), place(), events(RUSSIAN, ids(RUSSIAN)))
    assert heard(shared) == signs


@pytest.mark.parametrize("chat", [True, False])
def test_answers_that_are_no_streams_are_heard_too(*, chat: bool) -> None:
    shared = listening()
    for text, tokens in (("and so on " * 200, 600), ("!" * 50, 50), ("".join(RUSSIAN), 60), ("".join(WELL), 100)):
        shared.whole(incoming(), place(), whole(text, chat=chat), tokens)
    assert heard(shared) == {"one-token": 1, "repetition": 1, "script": 1}
    assert shared.answers == 4


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": []}', b'{"choices": 3}', b"\xff", b'{"choices": [{}]}'])
def test_an_answer_of_another_shape_is_passed_over(body: bytes) -> None:
    shared = listening()
    shared.whole(incoming(), place(), body, 100)
    assert heard(shared) == {}


async def test_the_engine_that_computed_the_prompt_is_told_of_as_well() -> None:
    shared = listening()
    await relay(shared, incoming(), place("d", "p"), events(["!"] * 20, [0] * 20))
    assert sorted(shared.health.bad()) == [
        ("d/1", Part.ANSWERED, Sign.ONE_TOKEN, 1), ("p/1", Part.PREFILLED, Sign.ONE_TOKEN, 1),
    ]  # fmt: skip


async def test_text_is_kept_only_where_the_user_allows_it() -> None:
    for keep, kept in ((0, 0), (2, 2)):
        shared = listening(keep_samples=keep)
        for _ in range(5):
            await relay(shared, incoming(), place(), events(["secret "] * 20, [0] * 20))
        assert len(shared.samples) == kept
        assert all(sample.text == "secret " * 20 and sample.request == "r1" for sample in shared.samples)


async def test_where_nobody_wants_to_know_nothing_is_heard() -> None:
    shared = listening(hears=False)
    await relay(shared, incoming(), place(), events(["!"] * 20, [0] * 20))
    shared.whole(incoming(), place(), whole("!" * 50), 50)
    assert shared.answers == 0
