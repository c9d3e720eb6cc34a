"""A sequence with real tokens for tests: every token follows from all tokens before it."""

from __future__ import annotations

from paceline.policy.engine.batching import EngineModel
from paceline.policy.engine.sequence import Sequence, Step

BLOCK = 4


class Tokens:
    """Tokens and their chained block hashes."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = len(prompt)
        self.all = list(prompt)

    def hashes(self, count: int) -> list[int]:
        assert count * BLOCK <= len(self.all), "a block was asked for before its tokens were known"
        chain = [0]
        for block in range(count):
            chain.append(hash((chain[-1], *self.all[block * BLOCK : (block + 1) * BLOCK])))
        return chain[1:]

    def append(self) -> None:
        self.all.append(hash(tuple(self.all)) % 97)

    @property
    def output(self) -> list[int]:
        return self.all[self.prompt :]


def expected_output(prompt: list[int], count: int) -> list[int]:
    """What a prompt gives, whoever computes it and in whatever order."""
    tokens = Tokens(prompt)
    for _ in range(count):
        tokens.append()
    return tokens.output


def sequence(prompt: list[int], output: int, **options: object) -> Sequence:
    return Sequence(Tokens(prompt), len(prompt), output, **options)  # type: ignore[arg-type]


def deliver(step: Step) -> None:
    """Give every sequence of a step its new token."""
    for emitted in step.emitted:
        assert isinstance(emitted.content, Tokens)
        emitted.content.append()


def run(engine: EngineModel, *, fetches_arrive: bool = True, most_steps: int = 10_000) -> list[Step]:
    """Step until nothing is left to do; fetches end at once."""
    steps = []
    while (step := engine.step()) is not None:
        deliver(step)
        for fetch in step.fetches:
            (engine.arrived if fetches_arrive else engine.failed)(fetch.sequence)
        steps.append(step)
        assert len(steps) < most_steps, "the engine does not come to an end"
    return steps
