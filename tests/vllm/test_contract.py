"""The contract suite on real vLLM: what holds here is what the emulator has to imitate."""

from __future__ import annotations

import pytest

from tests.contract import suite
from tests.contract.engines import Engines
from tests.vllm.engines import BLOCK_SIZE, MAX_MODEL_LEN, MODEL, EnginePair

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture
def engines(pair: EnginePair) -> Engines:
    a, b = pair.a.contract(), pair.b.contract()
    return Engines(a, b, model=MODEL, block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN)


class TestCompletions(suite.CompletionsContract): ...


class TestStreaming(suite.StreamingContract): ...


class TestChat(suite.ChatContract): ...


class TestErrors(suite.ErrorsContract): ...


class TestService(suite.ServiceContract): ...


class TestEvents(suite.EventsContract): ...


class TestDisaggregation(suite.DisaggregationContract): ...
