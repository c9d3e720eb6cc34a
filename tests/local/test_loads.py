"""Which requests a load consists of."""

import json
from pathlib import Path

import pytest

from paceline.errors import ConfigError, TraceError
from paceline.local.loads import LoadChoice, choose_load


@pytest.fixture
def trace(tmp_path: Path) -> str:
    rows = [{"timestamp": at * 30_000, "input_length": 100 * (at + 1), "output_length": 5} for at in range(10)]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\nbroken\n")
    return f"mooncake:{path}"


def test_a_conversation_is_generated_and_named_with_its_seed() -> None:
    chosen = choose_load(LoadChoice("conversation", 1.0, seed=7), max_model_len=None, real_engines=False)
    assert chosen.title == "generated conversations, seed 7"
    assert 100 < len(chosen.trace.requests) < 350


def test_agents_are_generated_to_fit_the_model() -> None:
    chosen = choose_load(LoadChoice("agents", 5.0, seed=7), max_model_len=8192, real_engines=False)
    assert chosen.title == "generated agents, seed 7"
    assert len(chosen.trace.requests) > 100
    assert chosen.left_out == 0


def test_real_engines_get_a_gentler_load_that_fits_the_model() -> None:
    chosen = choose_load(LoadChoice("conversation", 2.0), max_model_len=4096, real_engines=True)
    assert 20 < len(chosen.trace.requests) < 100
    assert all(r.input_tokens + r.output_tokens <= 4096 for r in chosen.trace.requests)
    assert chosen.left_out == 0


def test_a_window_of_a_trace_is_read_and_named(trace: str) -> None:
    chosen = choose_load(LoadChoice(trace, 2.0, 1.0, 2.0), max_model_len=None, real_engines=False)
    assert chosen.title == "trace.jsonl, minutes 1 to 3 at 2x its rate"
    assert [r.arrival_seconds for r in chosen.trace.requests] == [0.0, 15.0, 30.0, 45.0]
    assert chosen.trace.malformed == 1


def test_requests_too_long_for_the_model_are_left_out_and_counted(trace: str) -> None:
    chosen = choose_load(LoadChoice(trace, 5.0), max_model_len=305, real_engines=False)
    assert (len(chosen.trace.requests), chosen.left_out) == (3, 7)


def test_a_model_too_short_for_every_request_is_refused(trace: str) -> None:
    with pytest.raises(ConfigError, match="all 10 requests are longer than the model's 50 tokens"):
        choose_load(LoadChoice(trace, 5.0), max_model_len=50, real_engines=False)


@pytest.mark.parametrize("kind", ["", "mooncake", "mooncake:", "azure:x", "conversation:x"])
def test_an_unknown_load_is_refused_with_those_that_are_known(kind: str) -> None:
    with pytest.raises(ConfigError, match="use conversation, agents, shift or mooncake:FILE"):
        choose_load(LoadChoice(kind), max_model_len=None, real_engines=False)


def test_a_trace_that_is_missing_is_refused_by_name() -> None:
    with pytest.raises(TraceError, match="/nowhere: can't read the trace"):
        choose_load(LoadChoice("mooncake:/nowhere"), max_model_len=None, real_engines=False)
