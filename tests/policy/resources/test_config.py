from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paceline.api import labels, wire
from paceline.planning.calibration import entry_text
from paceline.policy.resources import Images, engine_config, engine_profile, hardware_pools, revision, router_config
from paceline.policy.scaling.profiles import get_profile
from tests.api.documents import deployment, sample


def config(**sections: Any) -> wire.EngineConfig:
    md = deployment(**sections)
    return engine_config(md, hardware_pools(md.spec)[0])


def model(**fields: Any) -> dict[str, Any]:
    return {"name": "Qwen/Qwen3-32B", **fields}


class TestEngineConfig:
    def test_says_what_the_quickstart_runs(self) -> None:
        md = sample("quickstart")
        found = engine_config(md, hardware_pools(md.spec)[0])
        assert found == wire.EngineConfig(
            deployment="quickstart",
            namespace="default",
            model="Qwen/Qwen3-32B",
            served_names=("qwen3-32b",),
            source=wire.ModelSource(kind=wire.SourceKind.HUGGING_FACE, reference="Qwen/Qwen3-32B"),
            parallelism=wire.Parallelism(tensor=2),
            accelerators=wire.Accelerators(product="NVIDIA-H200", count=2),
        )

    def test_survives_the_wire(self) -> None:
        md = sample("multi-node")
        found = engine_config(md, hardware_pools(md.spec)[0])
        assert wire.decode(wire.EngineConfig, wire.encode(found), source="test") == found
        assert found.parallelism == wire.Parallelism(tensor=8, data=2, expert=True, nodes=2)

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ({}, wire.ModelSource(kind=wire.SourceKind.HUGGING_FACE, reference="Qwen/Qwen3-32B")),
            (
                {"huggingFace": {"repository": "mirror/qwen", "revision": "abc"}},
                wire.ModelSource(kind=wire.SourceKind.HUGGING_FACE, reference="mirror/qwen", revision="abc"),
            ),
            (
                {"type": "Local", "local": {"path": "/models/x"}},
                wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/models/x"),
            ),
            (
                {"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "c"}},
                wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/var/lib/paceline/model"),
            ),
            (
                {"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "c", "path": "a/b"}},
                wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/var/lib/paceline/model/a/b"),
            ),
        ],
    )
    def test_names_where_the_weights_are(self, source: dict[str, Any], expected: wire.ModelSource) -> None:
        assert config(model=model(source=source)).source == expected

    def test_carries_every_tier_of_the_kv_cache(self) -> None:
        tiers = {
            "gpuMemoryPercent": 80,
            "blockSize": 32,
            "hostTier": {"sizeGiB": 64},
            "diskTier": {"sizeGiB": 500},
            "sharedTier": {"type": "Mooncake", "endpoint": "store:50051"},
        }
        assert config(engine={"kvCache": tiers}).kv_cache == wire.KvCache(
            gpu_memory_percent=80,
            block_size=32,
            host_gib=64,
            disk_gib=500,
            shared=wire.SharedTier(kind=wire.SharedTierKind.MOONCAKE, endpoint="store:50051"),
        )

    def test_moves_no_blocks_between_engines_that_do_both(self) -> None:
        pools = {"mode": "Aggregated", "aggregated": {"maxReplicas": 1, "accelerator": {"count": 1}}}
        assert config(pools=pools).connector is wire.ConnectorKind.NONE
        assert config().connector is wire.ConnectorKind.NIXL

    def test_passes_arguments_adapters_and_deadlines_on(self) -> None:
        found = config(
            engine={"extraArgs": ["--enforce-eager"], "startDeadlineSeconds": 60, "drainSeconds": 5},
            model=model(loraAdapters=[{"name": "a", "path": "/a"}], maxModelLen=4096),
        )
        assert found.extra_args == ("--enforce-eager",)
        assert (found.start_deadline_seconds, found.drain_seconds, found.max_model_len) == (60, 5, 4096)
        assert found.lora_adapters == (wire.LoraAdapter(name="a", path="/a"),)


class TestRouterConfig:
    def test_says_what_the_quickstart_serves(self) -> None:
        assert router_config(sample("quickstart")) == wire.RouterConfig(
            deployment="quickstart",
            namespace="default",
            served_names=("qwen3-32b",),
            objective=wire.Objective(ttft_milliseconds=2000, itl_milliseconds=50),
            engine_profile="qwen3-32b-h200-tp2",
            tokenizer="/var/lib/paceline/tokenizer",
        )

    @pytest.mark.parametrize(
        ("source", "tokenizer"),
        [
            ({}, "/var/lib/paceline/tokenizer"),
            ({"type": "Local", "local": {"path": "/models/m"}}, "/models/m"),
            (
                {"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "c", "path": "a/b"}},
                "/var/lib/paceline/model/a/b",
            ),
        ],
    )
    def test_says_where_the_tokenizer_is(self, source: dict[str, Any], tokenizer: str) -> None:
        assert router_config(deployment(model=model(source=source))).tokenizer == tokenizer

    def test_takes_a_byte_for_a_token_where_engines_are_emulated(self) -> None:
        emulated = {"env": [{"name": "PACELINE_ENGINE_BACKEND", "value": "emulator"}]}
        assert router_config(deployment(engine=emulated)).tokenizer == "bytes"

    def test_carries_classes_with_their_own_objectives(self) -> None:
        found = router_config(sample("disaggregated-h200")).classes
        assert [(entry.name, entry.priority) for entry in found] == [("interactive", 100), ("batch", -100)]
        assert found[0].objective == wire.Objective(ttft_milliseconds=1000, itl_milliseconds=40, target_percent=99)

    def test_carries_admission_limits_and_timeouts(self) -> None:
        limits = {"maxQueuedRequests": 1, "maxQueueSeconds": 2, "maxBodyBytes": 4096, "maxRunningPerEngine": 3}
        times = {"connectMilliseconds": 1, "firstByteMilliseconds": 2, "idleMilliseconds": 3}
        found = router_config(deployment(routing={"admission": limits, "timeouts": times, "localPrefillTokens": 64}))
        assert found.admission == wire.Admission(
            max_queued_requests=1, max_queue_seconds=2, max_body_bytes=4096, max_running_per_engine=3
        )
        assert found.timeouts == wire.Timeouts(connect_milliseconds=1, first_byte_milliseconds=2, idle_milliseconds=3)
        assert found.local_prefill_tokens == 64

    @pytest.mark.parametrize(("toggle", "holds"), [("Enabled", True), ("Disabled", False)])
    def test_says_whether_requests_wait_for_a_place_among_streams(self, toggle: str, holds: bool) -> None:
        found = router_config(deployment(routing={"admission": {"holdForItl": toggle}}))
        assert found.admission == wire.Admission(hold_for_itl=holds)

    def test_says_what_follows_when_an_engine_stands_out(self) -> None:
        health = {"mode": "Watch", "slowEngines": "Off", "maxOutPercent": 50, "holdSeconds": 60, "keepSamples": 5}
        assert router_config(deployment(routing={"outputHealth": health})).output_health == wire.OutputHealth(
            mode=wire.WatchMode.WATCH, slow_engines=wire.WatchMode.OFF, max_out_percent=50, hold_seconds=60,
            keep_samples=5,
        )  # fmt: skip

    def test_says_when_a_second_engine_is_asked(self) -> None:
        for given, expected in (
            ({"afterMilliseconds": 800}, wire.Hedging(after_milliseconds=800)),
            ({"afterMilliseconds": 800, "maxPercent": 2}, wire.Hedging(after_milliseconds=800, max_percent=2)),
        ):
            assert router_config(deployment(routing={"hedging": given})).hedging == expected
        assert router_config(deployment()).hedging is None

    def test_has_the_limits_of_the_wire_where_the_resource_names_none(self) -> None:
        found = router_config(deployment())
        assert (found.admission, found.timeouts) == (wire.Admission(), wire.Timeouts())
        assert found.output_health == wire.OutputHealth()


class TestEngineProfile:
    def test_is_found_by_model_product_and_tensor_parallelism(self) -> None:
        md = sample("heterogeneous")
        assert [engine_profile(md, pool) for pool in hardware_pools(md.spec)] == ["llama-3.1-70b-h100-tp4", None]

    def test_is_unknown_for_unknown_hardware(self) -> None:
        assert router_config(sample("cpu")).engine_profile is None

    def test_the_annotation_goes_before_what_is_known_of_the_hardware(self):
        mine = entry_text(replace(get_profile("tiny-cpu"), name="mine"))
        for name, used in (
            ("llama-3.1-8b-h100-tp1", "llama-3.1-8b-h100-tp1"),
            (mine, mine),
            ("abacus", "qwen3-32b-h200-tp2"),
            ("[[profile]]\nname = 3", "qwen3-32b-h200-tp2"),
        ):
            md = sample("quickstart")
            md = md.model_copy(
                update={"metadata": md.metadata.model_copy(update={"annotations": {labels.ENGINE_PROFILE: name}})}
            )
            assert router_config(md).engine_profile == used


class TestRevision:
    @pytest.mark.parametrize(
        "sections",
        [
            {"model": model(maxModelLen=1024)},
            {"model": model(source={"huggingFace": {"revision": "x"}})},
            {"engine": {"image": "other"}},
            {"engine": {"extraArgs": ["--dtype", "bfloat16"]}},
            {"engine": {"env": [{"name": "A", "value": "1"}]}},
            {"engine": {"kvCache": {"blockSize": 32}}},
        ],
    )
    def test_changes_with_what_decides_over_kv_blocks(self, sections: dict[str, Any]) -> None:
        assert revision(deployment(**sections), Images()) != revision(deployment(), Images())

    @pytest.mark.parametrize(
        "sections",
        [
            {"model": model(servedName="alias")},
            {"engine": {"drainSeconds": 1}},
            {"engine": {"kvCache": {"hostTier": {"sizeGiB": 5}}}},
            {"scaling": {"gpuBudget": 5}},
        ],
    )
    def test_stays_with_what_does_not(self, sections: dict[str, Any]) -> None:
        assert revision(deployment(**sections), Images()) == revision(deployment(), Images())

    def test_changes_with_the_image_of_the_operators_version(self) -> None:
        assert revision(deployment(), Images(engine="next")) != revision(deployment(), Images())
