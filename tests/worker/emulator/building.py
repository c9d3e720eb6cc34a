"""Generations without an engine, for tests."""

from __future__ import annotations

from typing import Any

from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.protocol import Completion, Plan, plan_completion


class Log:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.pieces: list[str] = []

    def token(self, generation: Generation, token: int, text: str) -> None:
        self.tokens.append(token)
        self.pieces.append(text)
        self.text += text


def plan(prompt: str | list[int | str | list[int]] = "hello", **fields: Any) -> Plan:
    return plan_completion(Completion(prompt=prompt, **fields), "m", None, 4096)


def generation(prompt: str = "hello", limit: int = 40, seed: int = 0, **fields: Any) -> tuple[Generation, Log]:
    made = plan(prompt, **({"ignore_eos": True} | fields))
    log = Log()
    return Generation(made, made.prompts[0], 0, sink=log, output_limit=limit, block_size=4, seed=seed), log


def speak(of: Generation) -> None:
    """Say everything, as an engine would."""
    while of.finish_reason is None:
        of.sequence.total += 1
        of.say()
