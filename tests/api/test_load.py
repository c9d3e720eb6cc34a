from __future__ import annotations

import json
from typing import Annotated, Any, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.api.v1alpha1 import base, check_update, from_manifest, load
from paceline.api.yaml_reader import MAX_BYTES, MAX_DEPTH
from paceline.errors import SpecError
from tests.api.documents import INVALID_UPDATES, changed, deployment, expected_refusal, minimal_manifest, update_pair


def problems(manifest: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        from_manifest(manifest, "test.yaml")
    return [str(problem) for problem in caught.value.problems]


def text_problems(text: str | bytes) -> str:
    with pytest.raises(SpecError) as caught:
        load(text, "test.yaml")
    message = str(caught.value)
    assert message.startswith("test.yaml is not valid:\n")
    return message


class TestMessagesOfFields:
    def test_every_problem_is_reported_at_once(self) -> None:
        manifest = minimal_manifest()
        manifest["spec"]["slo"] = {"ttftMilliseconds": 0, "itlMilliseconds": "50"}
        assert problems(manifest) == [
            "spec.slo.ttftMilliseconds: must be at least 1 (found 0)",
            'spec.slo.itlMilliseconds: must be a whole number of milliseconds (found "50")',
        ]

    def test_an_unknown_field_names_the_one_that_was_meant(self) -> None:
        manifest = changed("spec.slo.ttftmilisconds", 5)
        assert problems(manifest) == [
            "spec.slo.ttftmilisconds: is not a known field; did you mean ttftMilliseconds?",
        ]

    def test_an_unknown_field_that_resembles_nothing_lists_what_there_is(self) -> None:
        assert problems(changed("spec.slo.qqq", 5)) == [
            "spec.slo.qqq: is not a known field; known are ttftMilliseconds, itlMilliseconds, targetPercent, classes",
        ]

    def test_an_unknown_field_within_a_list_has_the_place_in_the_list(self) -> None:
        found = problems(changed("spec.engine.env", [{"name": "A", "value": "1"}, {"name": "B", "valeu": "1"}]))
        assert found == ["spec.engine.env[1].valeu: is not a known field; did you mean value?"]

    def test_a_python_name_is_no_name_of_the_manifest(self) -> None:
        assert "did you mean servedName?" in problems(changed("spec.model.served_name", "x"))[0]

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("spec.slo", None, "spec.slo: is required"),
            ("spec.tenancy", 5, "spec.tenancy: must be a mapping of fields: mode, "),
            ("spec.slo", [], "spec.slo: must be a mapping of fields: ttftMilliseconds"),
            ("spec.slo.targetPercent", 101, "spec.slo.targetPercent: must be at most 100 (found 101)"),
            ("spec.slo.targetPercent", 9.5, "spec.slo.targetPercent: must be a whole number of percent (found 9.5)"),
            ("spec.slo.targetPercent", True, "spec.slo.targetPercent: must be a whole number of percent (found true)"),
            ("spec.slo.targetPercent", 2**70, f"spec.slo.targetPercent: must be at most 100 (found {2**70})"),
            ("spec.model.name", 5, "spec.model.name: must be a string; put it in quotes (found 5)"),
            ("spec.model.name", "", 'spec.model.name: must have at least 1 characters (found "")'),
            (
                "spec.engine.extraArgs",
                "--x",
                'spec.engine.extraArgs: must be a list, each entry after a dash (found "--x")',
            ),
            ("spec.engine.podTemplate.spec", [], "spec.engine.podTemplate.spec: must be a mapping (found [])"),
            (
                "metadata.name",
                "Not_A_Name",
                "metadata.name: must be lower-case letters, digits, - and ., with a letter",
            ),
            ("metadata", None, "metadata: is required"),
        ],
    )
    def test_a_wrong_value_is_named_with_what_is_allowed(self, path: str, value: Any, message: str) -> None:
        found = problems(changed(path, value))
        assert len(found) == 1
        assert found[0].startswith(message)

    def test_a_pattern_without_words_of_its_own_is_shown(self) -> None:
        claim = {"claimName": "models", "path": "/models"}
        found = problems(
            changed("spec.model.source", {"type": "PersistentVolumeClaim", "persistentVolumeClaim": claim})
        )
        assert found == ['spec.model.source.persistentVolumeClaim.path: must match ^[^/].*$ (found "/models")']

    def test_every_pattern_of_a_common_type_has_words(self) -> None:
        ours = (annotated for annotated in vars(base).values() if get_origin(annotated) is Annotated)
        patterns = {
            constraint.pattern
            for annotated in ours
            for field in annotated.__metadata__
            for constraint in getattr(field, "metadata", ())
            if getattr(constraint, "pattern", None)
        }
        assert len(patterns) >= 8
        assert patterns <= base.PATTERN_WORDS.keys()

    def test_a_field_without_its_unit_is_known_by_the_rest(self) -> None:
        assert problems(changed("spec.scaling.scaleDownWindow", "5m")) == [
            "spec.scaling.scaleDownWindow: is not a known field; did you mean scaleDownWindowSeconds?"
        ]

    def test_a_field_in_the_wrong_place_is_told_where_it_belongs(self) -> None:
        assert problems(changed("spec.gpuBudget", 8)) == [
            "spec.gpuBudget: is not a known field here; it is one of spec.scaling"
        ]

    def test_a_reference_that_is_no_mapping_is_told_its_fields(self) -> None:
        assert problems(changed("spec.model.source.huggingFace.tokenSecret", "hub")) == [
            'spec.model.source.huggingFace.tokenSecret: must be a mapping of fields: name, key (found "hub")'
        ]

    def test_an_argument_of_a_field_is_told_the_field(self) -> None:
        (found,) = problems(changed("spec.engine.extraArgs", ["--max_model_len=4096", "-tp", "2", "--port", "1"]))
        assert found.endswith(
            "(found --max_model_len=4096, which spec.model.maxModelLen sets; "
            "-tp, which spec.engine.parallelism.tensor sets; --port)"
        )

    def test_a_boolean_that_no_word_of_the_field_can_have_been_is_just_refused(self) -> None:
        assert problems(changed("spec.engine.parallelism.expert", True)) == [
            "spec.engine.parallelism.expert: must be one of 'Enabled' or 'Disabled' (found true)"
        ]

    def test_a_bare_off_is_explained(self) -> None:
        assert 'put the word in quotes, as in "Off"' in problems(changed("spec.scaling.mode", False))[0]

    def test_a_long_value_is_cut(self) -> None:
        assert len(problems(changed("spec.model.name", " " * 500))[0]) < 250

    def test_broken_rules_are_all_reported_with_what_was_found(self) -> None:
        manifest = changed("spec.pools.prefill", {"minReplicas": 3, "maxReplicas": 2, "accelerator": {"count": 2}})
        assert problems(manifest) == [
            "spec.pools.prefill.accelerator.count: tensor × pipeline × data must be accelerator.count or a multiple"
            " of it: an engine takes whole pods (found 1 accelerators an engine, 2 a pod)",
            "spec.pools.prefill.minReplicas: must be at most maxReplicas (found minReplicas 3, maxReplicas 2)",
        ]


class TestDocuments:
    def test_null_means_left_out(self) -> None:
        manifest = minimal_manifest()
        manifest["spec"] |= {"engine": None, "scaling": {"gpuBudget": None}}
        manifest["spec"]["model"]["servedName"] = None
        assert from_manifest(manifest, "test") == from_manifest(minimal_manifest(), "test")

    def test_so_it_does_for_the_fields_of_a_pod_template_which_are_ours(self) -> None:
        md = from_manifest(changed("spec.engine.podTemplate", {"metadata": None, "forecast": None, "spec": {}}), "test")
        assert md == from_manifest(changed("spec.engine.podTemplate", {"spec": {}}), "test")

    def test_nulls_in_a_pod_template_stay(self) -> None:
        md = from_manifest(changed("spec.engine.podTemplate.spec", {"securityContext": None}), "test")
        assert md.spec.engine.pod_template is not None
        assert md.spec.engine.pod_template.spec == {"securityContext": None}

    def test_json_is_read_as_well(self) -> None:
        assert load(json.dumps(minimal_manifest()), "test.json") == from_manifest(minimal_manifest(), "test")

    def test_what_the_api_server_adds_to_the_metadata_does_not_matter(self) -> None:
        manifest = minimal_manifest()
        manifest["metadata"] |= {"uid": "u", "generation": 3, "managedFields": [{}], "resourceVersion": "7"}
        md = from_manifest(manifest, "test")
        assert (md.metadata.uid, md.metadata.generation) == ("u", 3)

    def test_an_empty_document_after_the_only_one_is_no_second(self) -> None:
        assert load(yaml.safe_dump(minimal_manifest()) + "---\n# nothing\n", "x").metadata.name == "small"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "(document): is empty"),
            ("# only a comment\n", "(document): is empty"),
            ("just words", "(document): must be a mapping with apiVersion, kind, metadata and spec"),
            ("kind: Deployment\napiVersion: apps/v1", "kind: must be ModelDeployment (found 'Deployment')"),
            (
                "kind: List\napiVersion: v1\nitems: []",
                "kind: must be ModelDeployment; put each item of the List into a file of its own (found 'List')",
            ),
            (
                "kind: ModelDeployment\napiVersion: paceline.dev/v2",
                "apiVersion: must be paceline.dev/v1alpha1 (found 'paceline.dev/v2')",
            ),
            ("a: 1", "kind: must be ModelDeployment (found nothing)"),
            (
                "a: 1\n---\nb: 1",
                "(document): must hold one document; put each into a file of its own (found 2 documents)",
            ),
            ("a:\n\tb: 1", "line 2, column 1: is indented with a tab; YAML takes spaces only"),
            (
                "a:\n  - b: 1\n    c: 2\n   d: 3",
                "line 4, column 4: does not go on with what begins in line 2: it is ind",
            ),
            ("a:\n  b: 1\n  b: 2", "line 3, column 3: the key 'b' is there twice"),
            ("a: &x 1\nb: *x", "line 2, column 4: anchors and aliases are not supported"),
            ("a: !!binary aGk=", "line 1, column 4: the tag tag:yaml.org,2002:binary is not supported"),
            ("a: !!python/object:os.system {}", "is not supported"),
            ("1: x", "line 1, column 1: the key 1 is not a string; put it in quotes"),
            ("a: {b: c", "line 1, column 9: "),
            ("a: \ud800", "(document): can't be read as YAML"),
            ("a: \x00", "(document): can't be read as YAML"),
            (b"\xff\xfe\x00", "(document): can't be read as YAML"),
            ("a: " + "[" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH} levels"),
            ("a: " + "9" * 5000, "(document): can't be read as YAML"),
            ("#" * (MAX_BYTES + 1), f"(document): must have at most {MAX_BYTES} bytes (found {MAX_BYTES + 1} bytes)"),
        ],
    )
    def test_a_file_that_is_no_manifest_says_why(self, text: str | bytes, message: str) -> None:
        assert message in text_problems(text)

    def test_a_number_that_json_lacks_is_refused(self) -> None:
        manifest = changed("spec.engine.podTemplate.spec", {"weight": float("nan")})
        assert problems(manifest)[0].startswith("(document): can't be expressed as JSON")

    def test_text_that_json_lacks_is_refused(self) -> None:
        text = json.dumps(minimal_manifest()).replace("Qwen/", "\\ud800")
        assert text_problems(text).endswith(
            "(document): holds text that JSON can't carry, such as half of a surrogate pair"
        )

    def test_a_date_in_a_pod_template_stays_a_string(self) -> None:
        text = yaml.safe_dump(changed("spec.engine.podTemplate.metadata", {"annotations": {"at": "DATE"}}))
        md = load(text.replace("DATE", "2026-01-01"), "x")
        assert md.spec.engine.pod_template is not None
        assert md.spec.engine.pod_template.metadata == {"annotations": {"at": "2026-01-01"}}


class TestUpdates:
    @pytest.mark.parametrize("path", INVALID_UPDATES, ids=lambda path: path.stem)
    def test_an_invalid_update_is_refused_for_the_reason_in_its_first_line(self, path) -> None:
        old, new = (from_manifest(document, path.name) for document in update_pair(path))
        with pytest.raises(SpecError) as caught:
            check_update(new, old, path.name)
        assert str(caught.value.problems[0]).startswith(expected_refusal(path))

    def test_everything_else_may_change(self) -> None:
        check_update(deployment(scaling={"gpuBudget": 9}, routing={"replicas": 5}), deployment(), "test")


class TestAnythingAtAll:
    @given(st.text(max_size=200))
    def test_any_text_is_a_manifest_or_a_spec_error(self, text: str) -> None:
        with pytest.raises(SpecError):
            load(text, "fuzz")

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=8,
    )
    fields = st.sampled_from(
        [
            "spec",
            "metadata",
            "status",
            "spec.model",
            "spec.model.loraAdapters",
            "spec.engine.env",
            "spec.engine.podTemplate",
            "spec.pools",
            "spec.pools.prefill.tolerations",
            "spec.slo.classes",
            "spec.tenancy",
        ]
    )

    @settings(max_examples=300)
    @given(fields, values)
    def test_any_value_anywhere_is_accepted_or_a_spec_error(self, path: str, value: Any) -> None:
        try:
            name = from_manifest(changed(path, value), "fuzz").metadata.name
        except SpecError as error:
            name = error.problems[0].path
        assert name
