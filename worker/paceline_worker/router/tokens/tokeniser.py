"""Tokens of arriving prompts, off the event loop: the seam between the router and everything else in this package.

Rendering and tokenising run in a small pool of threads: the tokenizer lets go of the interpreter while it works. Nobody
waits without bound: when too many prompts wait, when an answer takes too long, or when the chat template was too slow a
moment ago, a prompt has no tokens and is routed without.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from paceline.clock import Clock
from paceline.errors import ConfigError
from paceline_worker.router.parse import Fields, Kind
from paceline_worker.router.tokens.byte_model import NAME as BYTES
from paceline_worker.router.tokens.byte_model import ByteModel
from paceline_worker.router.tokens.cache import PartCache
from paceline_worker.router.tokens.errors import NoTokens, Outcome, PromptTooLong
from paceline_worker.router.tokens.folder import FolderModel
from paceline_worker.router.tokens.metrics import TokenMetrics
from paceline_worker.router.tokens.model import Model
from paceline_worker.router.tokens.prompt import ChatPrompt, TextPrompt, TokenIds, is_token_ids, read_prompt

log = logging.getLogger(__name__)

THREADS: Final = 2
MAX_PENDING: Final = 256
"""Prompts that are tokenised or wait for it. At a millisecond each, the last one waits for a tenth of a second."""
PATIENCE_SECONDS: Final = 2.0
"""How long a request waits for its tokens."""
PAUSE_SECONDS: Final = 30.0
"""How long no chat is rendered after one was too slow: whatever makes templates slow takes 2% of one core at most."""
INLINE_BYTES: Final = 16 * 1024
"""Lists of token ids up to this size are read on the spot, and so are prompts for a quick model: going to a thread and
back would take longer.
"""
MAX_CHARACTERS: Final = 16 * 1024 * 1024
"""Of a prompt's text, where the model's length does not bound it."""
CACHE_BYTES: Final = 64 * 1024 * 1024


class Tokeniser(Protocol):
    """Where the router gets the token ids of a prompt from."""

    async def tokens(self, kind: Kind, fields: Fields) -> TokenIds | None:
        """Exactly the ids that an engine will use; None when they are not to be had. Raises PromptTooLong."""
        ...


class PooledTokeniser:
    """Tokens by a model's own tokenizer and chat template; without a model, only of prompts that are token ids."""

    def __init__(self, model: Model | None, cache: PartCache, clock: Clock, *, max_model_len: int | None) -> None:
        self._model = model
        self._clock = clock
        self._limit = max_model_len
        self._paused_until = clock.monotonic()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tokens")
        self._pending: set[Future[TokenIds]] = set()
        self.metrics = TokenMetrics(cache, self._pending, loaded=model is not None)

    async def tokens(self, kind: Kind, fields: Fields) -> TokenIds | None:
        """See :class:`Tokeniser`."""
        started = self._clock.monotonic()
        outcome = Outcome.OK
        try:
            return await self._tokens(kind, fields)
        except NoTokens as reason:
            outcome = reason.outcome
            log.debug("no tokens: %s", reason)
            if outcome is Outcome.SLOW:
                self._paused_until = self._clock.monotonic() + PAUSE_SECONDS
                log.warning("%s; chats have no tokens for %g s", reason, PAUSE_SECONDS)
            return None
        except PromptTooLong:
            outcome = Outcome.TOO_LONG
            raise
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        finally:
            self.metrics.outcomes.add(outcome)
            self.metrics.seconds.observe(self._clock.monotonic() - started)

    def close(self) -> None:
        """Take no more prompts. What runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _tokens(self, kind: Kind, fields: Fields) -> TokenIds:
        ids = is_token_ids(kind, fields)
        if not ids and self._model is None:
            raise NoTokens(Outcome.MISSING, "there is no tokenizer")
        quick = ids or (self._model is not None and self._model.quick)
        if quick and len(fields.get("messages" if kind is Kind.CHAT else "prompt", b"")) <= INLINE_BYTES:
            return self._work(kind, fields)
        if kind is Kind.CHAT and self._clock.monotonic() < self._paused_until:
            raise NoTokens(Outcome.PAUSED, "the chat template was too slow a moment ago")
        if len(self._pending) >= MAX_PENDING:
            raise NoTokens(Outcome.BUSY, f"{MAX_PENDING} prompts wait already")
        future = self._pool.submit(self._work, kind, fields)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise NoTokens(Outcome.LATE, f"no tokens within {PATIENCE_SECONDS} s") from None

    def _work(self, kind: Kind, fields: Fields) -> TokenIds:
        """Runs in a thread of the pool."""
        try:
            return self._prompt_tokens(kind, fields)
        except (NoTokens, PromptTooLong):
            raise
        except BaseException as error:  # root of a thread's work; a panic of Rust code is no Exception
            log.exception("tokenising failed")
            raise NoTokens(Outcome.FAILED, f"{type(error).__name__}: {error}") from None

    def _prompt_tokens(self, kind: Kind, fields: Fields) -> TokenIds:
        prompt = read_prompt(kind, fields)
        tokens = self._encode(prompt) if isinstance(prompt, TextPrompt | ChatPrompt) else prompt
        if self._limit is not None and len(tokens) > self._limit:
            raise PromptTooLong(len(tokens), self._limit)
        return tokens

    def _encode(self, prompt: TextPrompt | ChatPrompt) -> TokenIds:
        if self._model is None:
            raise NoTokens(Outcome.MISSING, "there is no tokenizer")
        text = prompt.text if isinstance(prompt, TextPrompt) else self._model.render(prompt)
        if self._limit is not None and len(text) > self._limit * self._model.longest_token:
            raise PromptTooLong(len(text) // self._model.longest_token, self._limit, at_least=True)
        if len(text) > MAX_CHARACTERS:
            raise NoTokens(Outcome.UNSUPPORTED, f"over {MAX_CHARACTERS} characters")
        return self._model.encode(text, special_tokens=prompt.special_tokens)


def open_tokeniser(setting: str | None, clock: Clock, *, max_model_len: int | None) -> PooledTokeniser:
    """The tokeniser for a configuration's ``tokenizer``: a model's folder, ``bytes`` for the emulator, or None.

    Takes up to seconds for a large vocabulary. A folder that can't be used is logged and shown in the metrics; the
    router then works without exact tokens.
    """
    cache = PartCache(CACHE_BYTES)
    model: Model | None = None
    if setting == BYTES:
        model = ByteModel()
    elif setting is not None:
        try:
            model = FolderModel(Path(setting), cache, now=_local_time, clock=clock)
        except ConfigError as error:
            log.warning("prompts that come as text are routed without exact tokens: %s", error)
    return PooledTokeniser(model, cache, clock, max_model_len=max_model_len)


def _local_time() -> datetime:
    return datetime.now().astimezone()
