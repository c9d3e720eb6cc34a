"""What exact tokens of prompts cost the router, with and without the cache of parts.

Run: ``python -m tests.bench.bench_tokens --out out/bench``. A byte-level BPE of 16,000 tokens is trained on this
repository's own text (a minute), and put beside a chat template with roles and tools. For conversations of 2k, 16k and
64k tokens it measures one more turn: the first time (nothing is known), and as it goes in practice (all but the last
two turns are known); and how long the event loop stands still the first time. Besides, a short prompt, which shows what
the way to a thread and back costs, and the emulator's bytes. Figures are minimum, median and maximum over the rounds;
where CPU is far below wall clock, the machine was busy with something else.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from paceline.clock import WallClock
from paceline_worker.router.parse import Fields, Kind
from paceline_worker.router.tokens.tokeniser import PooledTokeniser, open_tokeniser
from tests.worker.router.tokens.models import CHATML, SPECIALS, write_model

ROOT = Path(__file__).parents[2]
VOCABULARY = 16_000
SIZES = (2_000, 16_000, 64_000)
TURN_TOKENS = 500
ROUNDS = 9
TIMER_SECONDS = 0.001


def corpus() -> list[str]:
    """Texts of this repository: prose and code."""
    files = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("operator/**/*.py"), *ROOT.glob("worker/**/*.py")]
    return [file.read_text() for file in sorted(files)]


def train(texts: Sequence[str]) -> Tokenizer:
    """A vocabulary of a useful size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(name, special=True) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def conversation(texts: Sequence[str], tokens: int, characters_per_token: float) -> list[dict[str, str]]:
    """Turns of about ``TURN_TOKENS`` tokens, ``tokens`` in all; no two texts begin alike."""
    step = int(TURN_TOKENS * characters_per_token)
    everything = "".join(texts)
    roles = cycle(("user", "assistant"))
    starts = range(0, int(tokens * characters_per_token), step)
    return [
        {"role": role, "content": f"{start} {everything[start % len(everything) :][:step]}"}
        for start, role in zip(starts, roles, strict=False)
    ]


def fields(body: dict[str, Any]) -> Fields:
    """A request as the router has parsed it."""
    return msgspec.json.decode(msgspec.json.encode(body), type=Fields)


@dataclass(frozen=True, slots=True)
class Measured:
    """One prompt."""

    tokens: int
    wall: float
    """Seconds from asking to having the tokens."""
    cpu: float
    """Seconds of all threads of this process meanwhile."""


async def ask(tokeniser: PooledTokeniser, request: Fields) -> Measured:
    """Tokens of a chat."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = await tokeniser.tokens(Kind.CHAT, request)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if tokens is None:
        raise RuntimeError("the bench's own prompt has no tokens")
    return Measured(len(tokens), wall, cpu)


async def longest_pause(tokeniser: PooledTokeniser, request: Fields) -> float:
    """By how long a timer of the event loop is late at most while a prompt is tokenised."""
    task = asyncio.create_task(ask(tokeniser, request))
    longest = 0.0
    while not task.done():
        due = time.perf_counter() + TIMER_SECONDS
        await asyncio.sleep(TIMER_SECONDS)
        longest = max(longest, time.perf_counter() - due)
    await task
    return longest


def summary(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum in microseconds."""
    ordered = sorted(values)
    names = ("min", "median", "max")
    return {
        name: round(value * 1e6, 1)
        for name, value in zip(names, (ordered[0], statistics.median(ordered), ordered[-1]), strict=True)
    }


async def measure(setting: str, texts: Sequence[str], characters_per_token: float) -> list[dict[str, Any]]:
    """One row for each size of conversation, and one for a short prompt."""
    rows = []
    for size in SIZES:
        messages = conversation(texts, size, characters_per_token)
        turn = fields({"messages": messages})
        # The turn before: what a conversation has behind it when it goes on.
        before = fields({"messages": messages[:-2]})
        first, following, pauses = [], [], []
        for _ in range(ROUNDS):
            with opened(setting) as tokeniser:
                first.append(await ask(tokeniser, turn))
            with opened(setting) as tokeniser:
                await ask(tokeniser, before)
                following.append(await ask(tokeniser, turn))
            with opened(setting) as tokeniser:
                pauses.append(await longest_pause(tokeniser, turn))
        rows.append(
            {
                "prompt": f"chat of {len(messages)} messages",
                "tokens": first[0].tokens,
                "first": figures(first),
                "next turn": figures(following),
                "longest pause of the loop": summary(pauses),
            }
        )
    with opened(setting) as tokeniser:
        short = fields({"messages": [{"role": "user", "content": "What is a KV block?"}]})
        times = [await ask(tokeniser, short) for _ in range(300)]
    return [*rows, {"prompt": "a short question", "tokens": times[0].tokens, "first": figures(times)}]


@contextmanager
def opened(setting: str) -> Iterator[PooledTokeniser]:
    """A tokeniser that has seen nothing yet; what was made before does not concern the collector, as in a router."""
    gc.collect()
    gc.freeze()
    tokeniser = open_tokeniser(setting, WallClock(), max_model_len=None)
    try:
        yield tokeniser
    finally:
        tokeniser.close()


def figures(rows: Sequence[Measured]) -> dict[str, Any]:
    """Wall clock and CPU, whole and a token."""
    cpu = statistics.median(row.cpu for row in rows)
    return {
        "wall": summary([row.wall for row in rows]),
        "cpu": summary([row.cpu for row in rows]),
        "cpu a token": round(cpu / rows[0].tokens * 1e6, 3),
    }


def main() -> None:
    """Run it and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    texts = corpus()
    tokenizer = train(texts)
    ratio = sum(map(len, texts)) / sum(len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts)))
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), CHATML, tokenizer=tokenizer)
        report = {
            "vocabulary": tokenizer.get_vocab_size(),
            "characters a token": round(ratio, 2),
            "rounds": ROUNDS,
            "unit": "microseconds",
            "model folder": uvloop.run(measure(folder, texts, ratio)),
            "bytes": uvloop.run(measure("bytes", texts, 1.0)),
        }
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokens.json").write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
