"""What exact tokens of prompts cost the router, with and without the cache of parts.

Run: ``python -m tests.bench.bench_tokens --out out/bench``. A byte-level BPE of 16,000 tokens is trained on this
repository's own text (a minute), and put beside a chat template with roles and tools. For conversations of 2k, 16k and
64k tokens it measures one more turn: the first time (nothing is known), and as it goes in practice (all but the last
two turns are known); and how long the event loop stands still meanwhile. Besides, a short prompt, which shows what the
way to a thread and back costs, and the emulator's bytes. Figures are minimum, median and maximum over the rounds, wall
clock.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
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


async def timed(tokeniser: PooledTokeniser, kind: Kind, request: Fields) -> tuple[float, int, float]:
    """Seconds, tokens, and the longest time that the loop stood still meanwhile."""
    still = 0.0
    done = False

    async def watch() -> None:
        nonlocal still
        last = time.perf_counter()
        while not done:
            await asyncio.sleep(0.0002)
            now = time.perf_counter()
            still = max(still, now - last - 0.0002)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    start = time.perf_counter()
    tokens = await tokeniser.tokens(kind, request)
    seconds = time.perf_counter() - start
    done = True
    await watching
    if tokens is None:
        raise RuntimeError("the bench's own prompt has no tokens")
    return seconds, len(tokens), still


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
        cold, warm, still, count = [], [], [], 0
        for _ in range(ROUNDS):
            tokeniser = open_tokeniser(setting, WallClock(), max_model_len=None)
            gc.collect()
            first, count, pause = await timed(tokeniser, Kind.CHAT, turn)
            cold.append(first)
            still.append(pause)
            tokeniser.close()
            tokeniser = open_tokeniser(setting, WallClock(), max_model_len=None)
            await tokeniser.tokens(Kind.CHAT, before)
            warm.append((await timed(tokeniser, Kind.CHAT, turn))[0])
            tokeniser.close()
        rows.append(
            {
                "prompt": f"chat of {len(messages)} turns",
                "tokens": count,
                "first": summary(cold),
                "next turn": summary(warm),
                "first, us a token": round(statistics.median(cold) / count * 1e6, 2),
                "next turn, us a token": round(statistics.median(warm) / count * 1e6, 3),
                "loop stood still": summary(still),
            }
        )
    tokeniser = open_tokeniser(setting, WallClock(), max_model_len=None)
    short = fields({"messages": [{"role": "user", "content": "What is a KV block?"}]})
    times = [await timed(tokeniser, Kind.CHAT, short) for _ in range(500)]
    tokeniser.close()
    rows.append({"prompt": "a short question", "tokens": times[0][1], "next turn": summary([row[0] for row in times])})
    return rows


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
