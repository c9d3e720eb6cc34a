"""The one line that says why an engine ended."""

from __future__ import annotations

import pytest

from paceline_worker.engine.diagnosis import MESSAGE_LIMIT, accelerator_fault, explain_exit, hardware_fault


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


CORE = "(EngineCore pid=12) ERROR 11-21 04:43:03 [core.py:99] "


@pytest.mark.parametrize(
    "said",
    [
        "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: CUDA error: device-side assert triggered",
        "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "torch.AcceleratorError: CUDA error: uncorrectable NVLink error detected during the execution",
        "RuntimeError: CUDA driver error: unknown error",
        "RuntimeError: HIP error: invalid device function",
        "pynvml.NVMLError_GpuIsLost: GPU is lost",
        "[1234.567890] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.",
        "  what():  CUDA error: unspecified launch failure",
        "[rank3]: torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
    ],
)
def test_a_fault_of_the_accelerator_is_known_as_one(said: str):
    assert accelerator_fault(said) == said.strip()
    assert accelerator_fault(CORE + said) == said.strip()
    assert hardware_fault(["loading", CORE + said, "ValueError: what followed from it"]) == said.strip()


@pytest.mark.parametrize(
    "said",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB",
        "RuntimeError: CUDA error: out of memory",
        "ValueError: No available memory for the cache blocks.",
        "(APIServer pid=9) INFO 11-21 04:43:03 [logger.py:39] Received request a: prompt: 'CUDA error: hello'",
        "INFO CUDA error: what a client may have written",
        "ValueError: unknown role 'CUDA error: an illegal memory access'",
        "jinja2.exceptions.TemplateError: message says RuntimeError: CUDA error: no",
        "compute capability 9.0, CUDA 12.8",
    ],
)
def test_other_errors_and_what_clients_write_are_none(said: str):
    assert accelerator_fault(said) is None
    assert hardware_fault([said]) is None


NCCL = "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited"
NIXL = "nixl._bindings.nixlRemoteDisconnectError: NIXL_ERR_REMOTE_DISCONNECT"


@pytest.mark.parametrize("said", [NCCL, NIXL])
def test_what_joins_accelerators_counts_only_as_the_reason_of_an_end(said: str):
    assert accelerator_fault(said) is None
    assert hardware_fault(["serving", CORE + said, "RuntimeError: Engine core initialization failed. See root cause"])
    assert hardware_fault([CORE + said, "serving on", CORE + "ValueError: something else"]) is None
