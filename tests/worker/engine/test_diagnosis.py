"""The one line that says why an engine ended."""

from __future__ import annotations

import pytest

from paceline_worker.engine.diagnosis import MESSAGE_LIMIT, explain_exit


def explain(*lines: str) -> str:
    return explain_exit("vLLM", "exit status 1", lines, when="before it was ready")


def test_the_root_cause_is_told_not_its_echo_in_other_processes():
    said = explain(
        "(EngineCore pid=12) ERROR 11-21 04:43:03 [core.py:99] Traceback (most recent call last):",
        "(EngineCore pid=12) ERROR 11-21 04:43:03 [core.py:99] ValueError: No available memory for the cache blocks.",
        "(APIServer pid=9) Traceback (most recent call last):",
        "(APIServer pid=9) RuntimeError: Engine core initialization failed. See root cause above.",
    )
    assert said == (
        "vLLM ended with exit status 1 before it was ready: ValueError: No available memory for the cache blocks."
    )


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("OSError: [Errno 98] Address already in use", "a port that it needs is taken"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB", "memory is too small"),
        ("ModuleNotFoundError: No module named 'vllm'", "vLLM is not installed in this image"),
    ],
)
def test_common_causes_are_put_into_words(line: str, meaning: str):
    said = explain(line)
    assert meaning in said
    assert line in said


def test_a_refused_argument_is_told():
    assert explain("usage: api_server.py [-h]", "api_server.py: error: unrecognized arguments: --flub").endswith(
        "api_server.py: error: unrecognized arguments: --flub"
    )


def test_without_an_error_the_last_line_is_all_there_is():
    assert explain("loading", "Segmentation fault", "").endswith(": Segmentation fault")


def test_a_child_that_said_nothing():
    assert explain() == "vLLM ended with exit status 1 before it was ready and said nothing."


def test_a_message_of_pages_is_cut():
    assert len(explain("ValueError: " + "x" * 5_000)) < MESSAGE_LIMIT + 100


def test_a_word_that_only_contains_error_is_no_error():
    assert explain("INFO 11-21 04:43:03 [a.py:1] error_policy=recompute", "bye").endswith(": bye")
