from __future__ import annotations

import pytest
from pydantic import ValidationError

from paceline.api.v1alpha1 import ModelDeployment, PoolMode, ScalingMode, from_manifest, load
from paceline.api.v1alpha1.arguments import MANAGED_ARGUMENTS
from paceline.api.v1alpha1.rules import RESERVED_ENV, RULES, UPDATE_RULES
from paceline.errors import SpecError
from tests.api.documents import INVALID, INVALID_UPDATES, changed, deployment, expected_refusal, minimal_manifest


def test_a_deployment_needs_only_a_model_an_objective_and_pools() -> None:
    md = deployment()
    assert md.spec.pools.mode is PoolMode.DISAGGREGATED
    assert md.spec.scaling.mode is ScalingMode.AUTO
    assert md.spec.scaling.scale_down_window_seconds == 180
    assert md.spec.slo.target_percent == 95
    assert md.metadata.namespace == "default"


def test_clients_use_the_model_name_unless_another_is_given() -> None:
    assert deployment().spec.model.client_name == "Qwen/Qwen3-32B"
    named = deployment(model={"name": "Qwen/Qwen3-32B", "servedName": "qwen"})
    assert named.spec.model.client_name == "qwen"


def test_a_pool_may_spread_its_engines_differently_from_the_others() -> None:
    md = deployment(
        engine={"parallelism": {"tensor": 2}},
        pools={
            "prefill": {"maxReplicas": 2, "accelerator": {"count": 4}, "parallelism": {"tensor": 4, "data": 2}},
            "decode": {"maxReplicas": 2, "accelerator": {"count": 2}},
        },
    )
    assert md.spec.pools.prefill is not None
    assert md.spec.pools.decode is not None
    assert md.spec.accelerators_of(md.spec.pools.prefill) == 8
    assert md.spec.accelerators_of(md.spec.pools.decode) == 2


def test_engines_on_cpus_take_nothing_from_the_gpu_budget() -> None:
    cpu = {"maxReplicas": 2, "accelerator": {"count": 0}}
    md = deployment(pools={"prefill": cpu, "decode": cpu}, scaling={"gpuBudget": 1})
    assert md.spec.pools.prefill is not None
    assert md.spec.accelerators_of(md.spec.pools.prefill) == 0


def test_a_deployment_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        deployment().spec.model.name = "another"  # type: ignore[misc]


def test_a_deployment_written_out_and_read_again_is_the_same() -> None:
    md = deployment(scaling={"gpuBudget": 4}, slo={"ttftMilliseconds": 10, "itlMilliseconds": 5, "targetPercent": 50})
    assert from_manifest(md.model_dump(mode="json"), "again") == md


def test_python_writes_the_names_of_the_manifest() -> None:
    dumped = ModelDeployment.model_validate(deployment().model_dump(mode="json"), strict=False).model_dump(mode="json")
    assert dumped["apiVersion"] == "paceline.dev/v1alpha1"
    assert dumped["spec"]["slo"]["ttftMilliseconds"] == 2000


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_document_is_refused_for_the_reason_in_its_first_line(path) -> None:
    with pytest.raises(SpecError) as caught:
        load(path.read_text(), path.name)
    assert [str(problem) for problem in caught.value.problems if str(problem).startswith(expected_refusal(path))]
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.model.__name__}.{rule.field or 'value'}")
def test_every_rule_has_a_document_that_breaks_it(rule) -> None:
    expectations = [expected_refusal(path) for path in INVALID]
    suffix, start = f"{rule.field}: " if rule.field else ": ", rule.message[:24]
    assert [text for text in expectations if suffix + start in text]


def test_every_update_rule_has_a_pair_of_documents_that_breaks_it() -> None:
    expectations = [expected_refusal(path) for path in INVALID_UPDATES]
    assert len(expectations) == len(UPDATE_RULES)
    for rule in UPDATE_RULES:
        assert [text for text in expectations if f"{rule.field}: {rule.message}" in text]


@pytest.mark.parametrize("argument", MANAGED_ARGUMENTS)
@pytest.mark.parametrize("form", ["--{}", "--{}=1"])
def test_arguments_that_fields_stand_for_are_refused_in_both_forms(argument: str, form: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.engine\.extraArgs"):
        from_manifest(changed("spec.engine.extraArgs", ["--enforce-eager", form.format(argument)]), "test")


@pytest.mark.parametrize("argument", ["--tensor_parallel_size=2", "-tp", "-dp=2"])
def test_other_spellings_that_vllm_takes_are_refused_too(argument: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.engine\.extraArgs"):
        from_manifest(changed("spec.engine.extraArgs", [argument]), "test")


def test_an_argument_that_only_begins_like_a_refused_one_passes() -> None:
    arguments = ["--model-impl", "vllm", "--port-range=1-2", "--dtype", "model", "--block-sizes", "tp", "-tpx"]
    assert from_manifest(changed("spec.engine.extraArgs", arguments), "test").spec.engine.extra_args == tuple(arguments)


@pytest.mark.parametrize("name", RESERVED_ENV)
def test_variables_that_paceline_sets_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=name):
        from_manifest(changed("spec.engine.env", [{"name": name, "value": "x"}]), "test")


def test_the_default_of_every_section_is_valid_by_itself() -> None:
    manifest = minimal_manifest()
    filled = from_manifest(manifest, "test").model_dump(mode="json", exclude_none=True)
    assert from_manifest(filled, "filled").spec == from_manifest(manifest, "test").spec
