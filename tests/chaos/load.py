"""Clients whose every answer is checked: emulated engines say what follows from the tokens, so the right text is known.

An answer is right when its text, its usage, its finish reason and its id are, with one ``[DONE]`` at its end.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from paceline_worker.emulator.tokens import EOS, encode, render_chat
from paceline_worker.emulator.voice import Voice, fold
from tests.chaos.scene import MODEL

LIMIT_BYTES = 1 << 20
ANSWER_SECONDS = 300.0
"""No case takes so long: a stream that is not over then is lost."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, and what its answer has to be."""

    path: str
    body: bytes
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


def continuation(prompt: Sequence[int], max_tokens: int, *, ignore_eos: bool) -> tuple[str, str, int]:
    """Text, finish reason and number of tokens that every engine says after a prompt."""
    voice = Voice(fold(prompt), prompt[-1], 0)
    said: list[str] = []
    for number in range(1, max_tokens + 1):
        token = voice.next(may_end=not ignore_eos)
        if token == EOS:
            return "".join(said), "stop", number
        said.append(chr(token))
    return "".join(said), "length", max_tokens


Range = tuple[int, int]


def wanted(rng: random.Random, *, tokens: Range = (40, 120), prompt: Range = (20, 600)) -> Wanted:
    """A streamed request: chat, text or tokens; some end by themselves. ``tokens``, ``prompt``: least and most."""
    kind, ignore_eos, limit = rng.choice(("chat", "text", "tokens")), rng.random() < 0.7, rng.randint(*tokens)
    content = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz     ") for _ in range(rng.randint(*prompt)))
    body: dict[str, object] = {
        "model": MODEL, "max_tokens": limit, "ignore_eos": ignore_eos, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    path, ids = "/v1/completions", encode(content)
    if kind == "chat":
        path, ids = "/v1/chat/completions", encode(render_chat([("user", content)]))
        body["messages"] = [{"role": "user", "content": content}]
    else:
        body["prompt"] = content if kind == "text" else ids
    text, finish, said = continuation(ids, limit, ignore_eos=ignore_eos)
    return Wanted(path, json.dumps(body).encode(), text, finish, len(ids), said)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Event(msgspec.Struct):
    id: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"")


_EVENT = msgspec.json.Decoder(_Event)


def wrong(asked: Wanted, events: Sequence[bytes]) -> str | None:
    """What is wrong with a stream, given its events; None when nothing is."""
    if not events or events[-1] != b"[DONE]":
        return f"no [DONE] at the end, {len(events)} events"
    text, finishes, ids, usage = [], [], set(), None
    for data in events[:-1]:
        try:
            event = _EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return f"something that is no event: {data[:100]!r}"
        if bytes(event.error):
            return f"an error in the stream: {data[:300].decode()}"
        ids.add(event.id)
        usage = event.usage or usage
        for choice in event.choices:
            text.append(choice.text if choice.delta is None else choice.delta.content or "")
            if choice.finish_reason is not None:
                finishes.append(choice.finish_reason)
    said = "".join(text)
    if said != asked.text:
        at = next((at for at, pair in enumerate(zip(said, asked.text, strict=False)) if len(set(pair)) > 1), len(said))
        return f"the text is another one from character {at} of {len(asked.text)} on ({len(said)} came)"
    if finishes != [asked.finish]:
        return f"finish reasons {finishes}, wanted {asked.finish}"
    if len(ids) != 1:
        return f"{len(ids)} ids in one stream"
    if usage != _Usage(asked.prompt_tokens, asked.completion_tokens):
        return f"usage {usage}, wanted {asked.prompt_tokens} and {asked.completion_tokens}"
    return None


@dataclass(slots=True)
class Seen:
    """What clients saw so far."""

    completed: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    longest_pause: float = 0.0
    """Seconds between two events of one stream."""
    running: int = 0

    def summary(self) -> dict[str, object]:
        """For a report."""
        return {
            "completed": self.completed, "failed": len(self.failures), "first_failures": self.failures[:5],
            "output_tokens": self.tokens, "longest_pause_seconds": round(self.longest_pause, 2),
        }  # fmt: skip


async def ask(port: int, asked: Wanted, seen: Seen) -> str | None:
    """Send one request on a connection of its own. Returns what is wrong with the answer; None when nothing is."""
    loop = asyncio.get_running_loop()
    events: list[bytes] = []
    seen.running += 1
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LIMIT_BYTES)
            try:
                head = (
                    f"POST {asked.path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
                )
                writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(asked.body) + asked.body)
                status = int((await reader.readline()).split()[1])
                seen.statuses[status] += 1
                if status != 200:
                    return f"status {status}: {(await reader.read(2000))[-300:].decode()}"
                last = 0.0
                while line := await reader.readline():
                    if line.startswith(b"data: "):
                        now = loop.time()
                        seen.longest_pause = max(seen.longest_pause, now - last if last else 0.0)
                        last = now
                        events.append(line[6:].rstrip())
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, IndexError, TimeoutError) as error:
        return f"{type(error).__name__}: {error} after {len(events)} events"
    finally:
        seen.running -= 1
    problem = wrong(asked, events)
    if problem is None:
        seen.completed += 1
        seen.tokens += asked.completion_tokens
    return problem


async def stream_for(
    seconds: float, ports: Sequence[int], streams: int, seed: int, seen: Seen, **sizes: tuple[int, int]
) -> None:
    """Keep so many streams open for so long, then let them end. Failures go to ``seen``."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def client(number: int) -> None:
        rng = random.Random(seed * 1_000_003 + number)
        while loop.time() < until:
            problem = await ask(ports[number % len(ports)], wanted(rng, **sizes), seen)
            if problem is not None:
                seen.failures.append(problem)

    await asyncio.gather(*(client(number) for number in range(streams)))
