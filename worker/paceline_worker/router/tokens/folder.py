"""A model's tokenizer and chat template from the files of its folder.

Reads ``tokenizer.json``, ``tokenizer_config.json``, ``special_tokens_map.json`` (of older models), ``config.json`` and
the templates (``chat_template.jinja``, ``additional_chat_templates/*.jinja``, ``chat_template.json``, or those inside
``tokenizer_config.json``), and does with them what `transformers` does when an engine loads the same folder: tokens
that only the configuration names are added; what goes around a text is said in ``tokenizer.json`` alone. Called once,
when the router starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import AddedToken, Tokenizer

from paceline.clock import Clock
from paceline.errors import ConfigError
from paceline.unreadable import UNREADABLE
from paceline_worker.router.tokens.cache import PartCache
from paceline_worker.router.tokens.encoder import Encoder
from paceline_worker.router.tokens.errors import NoTokens, Outcome
from paceline_worker.router.tokens.prompt import ChatPrompt, TokenIds
from paceline_worker.router.tokens.template import ChatTemplate

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""Of one file; the largest vocabularies take some 30 MB."""
RENDER_SECONDS: Final = 0.5
"""A conversation of a thousand messages takes about a hundredth."""

_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that templates know by name."""
_TOKEN_OPTIONS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")
_OWN_RENDERERS: Final = frozenset(
    {
        "DeepseekV32ForCausalLM",
        "DeepseekV4ForCausalLM",
        "DeepseekV4ForConditionalGeneration",
        "DeepseekV41ForCausalLM",
        "GptOssForCausalLM",
        "InklingForCausalLM",
        "InklingForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "MoonshotKimiaForCausalLM",
    }
)
"""Architectures whose conversations vLLM renders with code of its own instead of the template."""
_OWN_TOKENIZER: Final = ("tekken.json", "tokenizer.model.v*")
"""Files with which vLLM takes Mistral's tokenizer instead of ``tokenizer.json``."""

Json = dict[str, Any]


class FolderModel:
    """Tokens of engines that serve the model in a folder."""

    quick = False

    def __init__(self, folder: Path, cache: PartCache, *, now: Callable[[], datetime], clock: Clock) -> None:
        """Raises ConfigError when the folder has no usable tokenizer."""
        config = _read(folder / "tokenizer_config.json")
        special = _special_tokens(config, _read(folder / "special_tokens_map.json"))
        self._special = {name: _content(token) for name, token in special.items()}
        sources = _templates(folder, config)
        tokenizer = _tokenizer(folder, config, special)
        mentioned = [
            token.content
            for token in tokenizer.get_added_tokens_decoder().values()
            if any(token.content in source for source in sources.values())
        ]
        self._encoder = Encoder(tokenizer, cache, cut_before=[*mentioned, *self._special.values()])
        self.longest_token = self._encoder.longest_token
        self._own_renderer = bool(_OWN_RENDERERS & set(_read(folder / "config.json").get("architectures") or ()))
        self._templates = {
            name: ChatTemplate(source, now=now, clock=clock, seconds=RENDER_SECONDS) for name, source in sources.items()
        }

    def render(self, prompt: ChatPrompt) -> str:
        """The text of a conversation. Raises NoTokens."""
        if self._own_renderer:
            raise NoTokens(Outcome.UNSUPPORTED, "engines render this model's conversations without a template")
        named = self._templates.get("tool_use") if prompt.tools is not None else None
        template = named or self._templates.get("default")
        if template is None:
            raise NoTokens(Outcome.REFUSED, "the model has no chat template")
        return template.render(prompt, self._special)

    def encode(self, text: str, *, special_tokens: bool) -> TokenIds:
        """Tokens of a text."""
        return self._encoder.encode(text, special_tokens=special_tokens)


def _tokenizer(folder: Path, config: Json, special: Mapping[str, Any]) -> Tokenizer:
    for pattern in _OWN_TOKENIZER:
        if any(folder.glob(pattern)):
            raise ConfigError(f"{folder}: engines use Mistral's own tokenizer ({pattern}), which the router has not.")
    file = folder / "tokenizer.json"
    try:
        text = _text(file)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; exact tokens need it.") from None
    with ThreadPoolExecutor(1) as thread:
        parsing = thread.submit(Tokenizer.from_str, text)
    error = parsing.exception()
    if type(error) is Exception:  # it has no type of its own for what it refuses
        raise ConfigError(f"{file} is not a tokenizer: {error}")
    tokenizer = parsing.result()
    for _, token in sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0])):
        tokenizer.add_tokens([_added(token, special=False)])
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    listed = [] if isinstance(extra, dict) else extra
    tokenizer.add_special_tokens([_added(token, special=True) for token in [*special.values(), *listed]])
    if config.get("split_special_tokens"):
        tokenizer.encode_special_tokens = True
    return tokenizer


def _added(token: Any, *, special: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=False)
    options = {"special": special, "normalized": False}
    options.update((name, bool(token[name])) for name in _TOKEN_OPTIONS if name in token)
    return AddedToken(_content(token), **options)


def _special_tokens(config: Json, older: Json) -> dict[str, Any]:
    """Tokens that have a name, each as the text that it is or as an object with its options."""
    named = {name: config[name] for name in _NAMED if config.get(name)}
    if "added_tokens_decoder" not in config:
        named.update((name, older[name]) for name in _NAMED if older.get(name))
    own = {
        name: token
        for name, token in config.items()
        if name.endswith("_token") and name not in _NAMED and isinstance(token, str)
    }
    extra = config.get("extra_special_tokens")
    return named | own | (extra if isinstance(extra, dict) else {})


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _templates(folder: Path, config: Json) -> dict[str, str]:
    """Template sources by name; the nameless one is ``default``."""
    found = {file.stem: file for file in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        found["default"] = folder / "chat_template.jinja"
    if found:
        return {name: _text(file) for name, file in found.items()}
    given = config.get("chat_template") or _read(folder / "chat_template.json").get("chat_template") or {}
    if isinstance(given, str):
        return {"default": given}
    if isinstance(given, list):
        return {str(item["name"]): str(item["template"]) for item in given if isinstance(item, dict)}
    return {str(name): str(source) for name, source in given.items()}


def _read(file: Path) -> Json:
    """A JSON object from a file; empty if there is none."""
    try:
        return msgspec.json.decode(_load(file), type=Json)
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise ConfigError(f"{file} is not a JSON object: {error}") from None


def _text(file: Path) -> str:
    try:
        return _load(file).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from None


def _load(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{file} has {size} bytes; at most {MAX_FILE_BYTES} are read.")
        return file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}.") from None
