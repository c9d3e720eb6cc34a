"""Models from their folders."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from paceline.clock import VirtualClock
from paceline.errors import ConfigError
from paceline_worker.router.parse import Kind
from paceline_worker.router.tokens.cache import PartCache
from paceline_worker.router.tokens.errors import NoTokens
from paceline_worker.router.tokens.folder import FolderModel
from paceline_worker.router.tokens.prompt import ChatPrompt, read_prompt
from tests.worker.router.tokens.corpus import TOOLS
from tests.worker.router.tokens.models import VOCABULARY, train, write_model
from tests.worker.router.tokens.test_prompt import fields


def load(folder: Path) -> FolderModel:
    return FolderModel(folder, PartCache(1 << 20), now=lambda: datetime(2026, 1, 1, tzinfo=UTC), clock=VirtualClock())


def rendered(folder: Path, **values: Any) -> str:
    prompt = read_prompt(Kind.CHAT, fields(messages=[{"role": "user", "content": "x"}], **values))
    assert isinstance(prompt, ChatPrompt)
    return load(folder).render(prompt)


def test_a_folder_renders_and_encodes(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert rendered(tmp_path) == "<|start|>user\nx<|end|>\n<|start|>assistant\n"
    assert load(tmp_path).encode("<|start|>a", special_tokens=True).tolist() == train().encode("<|start|>a").ids


def test_special_tokens_have_names_in_templates(tmp_path: Path) -> None:
    options = {"eos_token": {"content": "<|end|>", "lstrip": False}, "image_token": "<|i|>"}
    write_model(tmp_path, "{{ bos_token }}{{ eos_token }}{{ image_token }}", **options)
    assert rendered(tmp_path) == "<|bos|><|end|><|i|>"


def test_names_of_older_models_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    write_model(tmp_path, "{{ bos_token }}")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<|tool|>"}}))
    assert rendered(tmp_path) == "<|tool|>"


@pytest.mark.parametrize(
    "config",
    [
        {"additional_special_tokens": ["<|new|>"]},
        {"extra_special_tokens": ["<|new|>"]},
        {"extra_special_tokens": {"new_token": "<|new|>"}},
        {"new_token": "<|new|>"},
        {"added_tokens_decoder": {str(VOCABULARY): {"content": "<|new|>", "special": False, "normalized": False}}},
    ],
)
def test_tokens_that_only_the_configuration_names_are_tokens(tmp_path: Path, config: dict[str, Any]) -> None:
    write_model(tmp_path, **config)
    assert load(tmp_path).encode("<|new|>", special_tokens=False).tolist() == [VOCABULARY]


def test_special_tokens_can_be_set_to_be_split(tmp_path: Path) -> None:
    write_model(tmp_path, split_special_tokens=True)
    assert len(load(tmp_path).encode("<|start|>", special_tokens=False)) > 1


class TestTemplates:
    def test_a_file_wins_over_the_configuration(self, tmp_path: Path) -> None:
        write_model(tmp_path, "file", chat_template="configuration")
        assert rendered(tmp_path) == "file"

    def test_the_configuration_may_hold_it(self, tmp_path: Path) -> None:
        write_model(tmp_path, None, chat_template="configuration")
        assert rendered(tmp_path) == "configuration"

    def test_a_processor_may_hold_it(self, tmp_path: Path) -> None:
        write_model(tmp_path, None)
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "processor"}))
        assert rendered(tmp_path) == "processor"

    def test_there_may_be_one_for_tools(self, tmp_path: Path) -> None:
        named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
        write_model(tmp_path, None, chat_template=named)
        assert (rendered(tmp_path), rendered(tmp_path, tools=TOOLS)) == ("plain", "tools")

    def test_there_may_be_a_folder_of_them(self, tmp_path: Path) -> None:
        write_model(tmp_path, "plain")
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
        assert (rendered(tmp_path), rendered(tmp_path, tools=TOOLS)) == ("plain", "tools")

    def test_without_one_chats_have_no_tokens(self, tmp_path: Path) -> None:
        write_model(tmp_path, None)
        with pytest.raises(NoTokens, match="no chat template"):
            rendered(tmp_path)

    def test_models_that_engines_render_by_other_means_have_none(self, tmp_path: Path) -> None:
        write_model(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GptOssForCausalLM"]}))
        with pytest.raises(NoTokens, match="without a template"):
            rendered(tmp_path)


class TestUnusable:
    def test_a_missing_tokenizer_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"tokenizer\.json does not exist"):
            load(tmp_path)

    @pytest.mark.parametrize("text", ["", "{}", "nothing", '{"model": 5}', "\x00\xff"])
    def test_a_file_that_is_no_tokenizer_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ConfigError, match=r"tokenizer\.json is not a tokenizer"):
            load(tmp_path)

    @pytest.mark.parametrize("text", ["[]", "nothing"])
    def test_a_configuration_that_is_no_json_object_is_named(self, tmp_path: Path, text: str) -> None:
        write_model(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"tokenizer_config\.json is not a JSON object"):
            load(tmp_path)

    def test_a_template_that_does_not_compile_is_named(self, tmp_path: Path) -> None:
        write_model(tmp_path, "{% if %}")
        with pytest.raises(ConfigError, match="chat template"):
            load(tmp_path)

    def test_mistrals_own_tokenizer_is_not_imitated(self, tmp_path: Path) -> None:
        write_model(tmp_path)
        (tmp_path / "tekken.json").write_text("{}")
        with pytest.raises(ConfigError, match="Mistral"):
            load(tmp_path)

    def test_a_file_of_another_encoding_is_named(self, tmp_path: Path) -> None:
        write_model(tmp_path)
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="UTF-8"):
            load(tmp_path)


def test_a_word_of_the_vocabulary_may_be_made_a_special_token(tmp_path: Path) -> None:
    plain = train()
    write_model(tmp_path, tokenizer=plain, additional_special_tokens=["the"])
    tokens = load(tmp_path).encode("x the y", special_tokens=False).tolist()
    assert tokens == [*plain.encode("x ").ids, plain.token_to_id("the") or VOCABULARY, *plain.encode(" y").ids]


def test_options_of_tokens_are_kept(tmp_path: Path) -> None:
    write_model(tmp_path, mask_token={"content": "<|mask|>", "lstrip": True})
    assert load(tmp_path).encode("a  <|mask|>", special_tokens=False).tolist() == [*train().encode("a").ids, VOCABULARY]
