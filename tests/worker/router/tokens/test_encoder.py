"""Encoding through the cache of parts."""

from __future__ import annotations

import threading
from array import array

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from paceline_worker.router.tokens.cache import PartCache
from paceline_worker.router.tokens.encoder import Encoder
from tests.worker.router.tokens.corpus import TEXTS
from tests.worker.router.tokens.models import train

PLAIN = train()
CUTS = ("<|start|>", "<|end|>")


def encoder(cache: PartCache | None = None, tokenizer: Tokenizer | None = None) -> Encoder:
    return Encoder(tokenizer or train(), PartCache(1 << 20) if cache is None else cache, cut_before=CUTS)


def turn(number: int) -> str:
    return f"<|start|>user\nquestion {number} " + "word " * 150 + "<|end|>\n<|start|>assistant\n"


def test_tokens_are_the_tokenizers_own_at_first_and_from_the_cache() -> None:
    ours = encoder()
    for text in (*TEXTS, *TEXTS):
        assert ours.encode(text, special_tokens=False).tolist() == PLAIN.encode(text, add_special_tokens=False).ids


@given(st.lists(st.one_of(st.text(), st.sampled_from(["<|start|>", "<|end|>", "a " * 300])), max_size=12).map("".join))
def test_a_warm_cache_changes_nothing(text: str) -> None:
    ours = encoder()
    first = ours.encode(text, special_tokens=True)
    assert ours.encode(text, special_tokens=True) == first
    assert first.tolist() == PLAIN.encode(text).ids


def test_a_turn_of_a_chat_tokenises_only_what_is_new() -> None:
    cache = PartCache(1 << 20)
    ours = encoder(cache)
    chat = "".join(map(turn, range(20)))
    ours.encode(chat, special_tokens=False)
    missed = cache.missed_characters
    longer = chat + "short answer<|end|>\n" + turn(20)
    assert ours.encode(longer, special_tokens=False).tolist() == PLAIN.encode(longer, add_special_tokens=False).ids
    assert cache.missed_characters - missed < 2 * len(turn(0))


def test_a_part_is_found_in_another_conversation_too() -> None:
    cache = PartCache(1 << 20)
    ours = encoder(cache)
    system = "<|start|>system\n" + "rule " * 500 + "<|end|>\n"
    ours.encode(system + turn(1), special_tokens=False)
    ours.encode(system + turn(2), special_tokens=False)
    assert cache.found_characters == len(system) - len("<|end|>\n")


def test_what_is_not_closed_yet_is_not_kept() -> None:
    cache = PartCache(1 << 20)
    encoder(cache).encode("no special token " * 100, special_tokens=False)
    assert len(cache) == 0


def test_tokens_around_every_text_are_the_tokenizers() -> None:
    begins = train(begins=True)
    ours = encoder(tokenizer=begins)
    assert ours.encode("x", special_tokens=True).tolist() == begins.encode("x").ids
    assert ours.encode("x", special_tokens=False).tolist() == PLAIN.encode("x").ids


def test_truncation_and_padding_of_the_file_are_the_engines_business() -> None:
    tokenizer = train()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    assert (
        encoder(tokenizer=tokenizer).encode("many words here", special_tokens=True).tolist()
        == PLAIN.encode("many words here").ids
    )


def test_a_tokenizer_that_adds_tokens_inside_is_asked_every_time() -> None:
    odd = train()
    odd.post_processor = processors.TemplateProcessing(single="$A <|end|> $A", special_tokens=[("<|end|>", 3)])
    text = turn(1)
    assert encoder(tokenizer=odd).encode(text, special_tokens=True).tolist() == odd.encode(text).ids


def test_special_tokens_that_are_to_be_split_cut_nothing() -> None:
    split = train()
    split.encode_special_tokens = True
    cache = PartCache(1 << 20)
    assert encoder(cache, split).encode(turn(1) * 3, special_tokens=False).tolist() == split.encode(turn(1) * 3).ids
    assert len(cache) == 0


def test_the_longest_token_bounds_what_a_text_can_shrink_to() -> None:
    ours = encoder()
    for text in TEXTS:
        assert len(ours.encode(text, special_tokens=False)) * ours.longest_token >= len(text)


def test_threads_share_one_encoder() -> None:
    ours = encoder(PartCache(20_000))  # small: entries come and go
    wrong: list[str] = []

    def work(seed: int) -> None:
        for number in range(30):
            text = "".join(turn((seed + number * step) % 7) for step in range(5))
            if ours.encode(text, special_tokens=False).tolist() != PLAIN.encode(text).ids:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class TestCache:
    def test_the_least_recently_used_part_goes_first(self) -> None:
        cache = PartCache(4000)
        for name in "abc":
            cache.put(name * 300, array("I", [1] * 100))
        cache.get("a" * 300)
        cache.put("d" * 300, array("I", [1] * 100))
        cache.put("e" * 300, array("I", [1] * 100))
        assert cache.get("b" * 300) is None
        assert cache.get("a" * 300) == array("I", [1] * 100)
        assert cache.evicted

    @given(st.lists(st.tuples(st.text(max_size=200), st.integers(0, 300)), max_size=60))
    def test_its_size_stays_within_its_bound_and_is_what_it_says(self, entries: list[tuple[str, int]]) -> None:
        cache = PartCache(5_000)
        for part, count in entries:
            cache.put(part, array("I", [0] * count))
            assert 0 <= cache.bytes <= 5_000
        assert (cache.bytes == 0) == (len(cache) == 0)

    def test_one_part_does_not_drive_out_everything_else(self) -> None:
        cache = PartCache(4000)
        cache.put("small", array("I", [1]))
        cache.put("x" * 3000, array("I", [1] * 100))
        assert cache.get("small") is not None
        assert cache.get("x" * 3000) is None
