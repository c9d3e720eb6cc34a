"""The contract suite on two emulators."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import suite
from tests.contract.emulated import emulator
from tests.contract.engines import Engines

MAX_MODEL_LEN = 8192


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    logs = tmp_path_factory.mktemp("emulators")
    flags = ("--max-model-len", str(MAX_MODEL_LEN), "--block-size", "16", "--speed", "5")
    with emulator(logs / "a.log", *flags) as a, emulator(logs / "b.log", *flags) as b:
        yield Engines(a, b, model="emulated", block_size=16, max_model_len=MAX_MODEL_LEN)


class TestCompletions(suite.CompletionsContract): ...


class TestStreaming(suite.StreamingContract): ...


class TestChat(suite.ChatContract): ...


class TestErrors(suite.ErrorsContract): ...


class TestService(suite.ServiceContract): ...


class TestEvents(suite.EventsContract): ...


class TestDisaggregation(suite.DisaggregationContract): ...
