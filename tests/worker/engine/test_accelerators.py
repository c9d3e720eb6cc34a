"""Configurations that a machine can't do are refused with what is needed and what is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paceline.api import wire
from paceline.errors import ConfigurationImpossible, EngineError
from paceline_worker.engine.accelerators import (
    Accelerator,
    check_accelerators,
    check_parallelism,
    check_source,
    find_accelerators,
    weight_bytes,
)
from tests.worker.engine.support import engine_config

GIB = 1 << 30
H200 = Accelerator(name="NVIDIA H200", memory_bytes=140 * GIB)


def checkpoint(folder: Path, gibibytes: int) -> wire.ModelSource:
    """A checkpoint of that size, in two sparse files."""
    (folder / "config.json").write_text("{}")
    for name in ("model-1.safetensors", "model-2.safetensors"):
        with (folder / name).open("wb") as file:
            file.truncate(gibibytes * GIB // 2)
    return wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=str(folder))


@pytest.mark.parametrize(
    ("parallelism", "count"),
    [
        ({}, 1),
        ({"tensor": 4, "pipeline": 2}, 8),
        ({"tensor": 8, "pipeline": 2, "nodes": 2}, 8),
        ({"tensor": 2, "data": 4}, 8),
        ({"tensor": 2}, 0),
    ],
)
def test_a_parallelism_that_fits_its_pod_passes(parallelism: dict[str, int], count: int):
    config = engine_config(
        parallelism=wire.Parallelism(**parallelism), accelerators=wire.Accelerators(count=count, product="H200")
    )
    check_parallelism(config)
    check_accelerators(config, (H200,) * count)


def test_more_ranks_than_accelerators_in_the_pod_are_refused():
    config = engine_config(parallelism=wire.Parallelism(tensor=4, pipeline=2), accelerators=wire.Accelerators(count=4))
    with pytest.raises(ConfigurationImpossible) as refused:
        check_parallelism(config)
    assert refused.value.field == "engine.parallelism"
    assert refused.value.need == "8 accelerators in a pod (tensor 4 x pipeline 2 x data 1)"
    assert refused.value.have == "accelerator.count 4"


def test_ranks_that_do_not_split_evenly_over_the_nodes_are_refused():
    config = engine_config(parallelism=wire.Parallelism(tensor=3, nodes=2))
    with pytest.raises(ConfigurationImpossible, match=r"3 ranks .* split evenly"):
        check_parallelism(config)


@pytest.mark.parametrize(
    ("found", "have"),
    [((), "none"), ((H200,), r"1 \(NVIDIA H200\)"), ((H200, H200), r"2 \(NVIDIA H200, NVIDIA H200\)")],
)
def test_missing_accelerators_are_counted(found: tuple[Accelerator, ...], have: str):
    config = engine_config(accelerators=wire.Accelerators(product="H200", count=4))
    with pytest.raises(ConfigurationImpossible, match=f"accelerator.count: needs 4 of H200, but .* has {have}"):
        check_accelerators(config, found)


def test_weights_larger_than_the_memory_are_refused(tmp_path: Path):
    config = engine_config(source=checkpoint(tmp_path, 141))
    with pytest.raises(ConfigurationImpossible, match=r"141\.0 GiB for the weights alone, .* 126\.0 GiB"):
        check_accelerators(config, (H200,))


def test_the_memory_of_all_nodes_of_an_engine_counts(tmp_path: Path):
    source = checkpoint(tmp_path, 141)
    config = engine_config(source=source, parallelism=wire.Parallelism(tensor=1, pipeline=2, nodes=2))
    check_accelerators(config, (H200,))


def test_data_parallel_ranks_hold_the_weights_once_each_unless_experts_are_shared_out(tmp_path: Path):
    source = checkpoint(tmp_path, 141)
    two = wire.Accelerators(count=2)
    shared = wire.Parallelism(data=2, expert=True)
    check_accelerators(engine_config(source=source, accelerators=two, parallelism=shared), (H200, H200))
    copied = wire.Parallelism(data=2)
    with pytest.raises(ConfigurationImpossible, match=r"282\.0 GiB"):
        check_accelerators(engine_config(source=source, accelerators=two, parallelism=copied), (H200, H200))


def test_weights_that_are_still_to_be_downloaded_have_no_size_yet():
    assert weight_bytes(engine_config().source) is None


def test_a_model_folder_that_is_missing_or_empty_is_named(tmp_path: Path):
    missing = wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match="nowhere does not exist in this pod"):
        check_source(missing)
    with pytest.raises(EngineError, match=r"holds no config\.json"):
        check_source(wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=str(tmp_path)))


async def test_accelerators_are_found_in_a_process_of_their_own(tmp_path: Path):
    answers = tmp_path / "python"
    answers.write_text('#!/bin/sh\necho \'[{"name": "NVIDIA H200", "memory_bytes": 150323855360}]\'\n')
    answers.chmod(0o755)
    assert await find_accelerators(str(answers)) == (H200,)


async def test_an_image_without_torch_says_so(tmp_path: Path):
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    fails.chmod(0o755)
    with pytest.raises(EngineError, match="No module named 'torch'"):
        await find_accelerators(str(fails))
    assert "torch" not in sys.modules
