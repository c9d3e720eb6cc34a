"""From a checked request to what placement sees of it: its prompt in blocks, who holds them, its session, its hints.

The flow calls :meth:`Matcher.prepare` once, :meth:`Prepared.view` whenever it tries to place the request, and then says
what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from paceline.api import wire
from paceline.clock import Clock
from paceline.policy.routing.cost import RequestView, Settings
from paceline.policy.routing.explanation import Explanation, explain
from paceline.policy.routing.fleet import EngineModel, EngineView
from paceline.policy.routing.placement import Placement
from paceline.policy.routing.prefix_index import Held
from paceline.policy.routing.sessions import Sessions
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine
from paceline_worker.router.hints import MAX_PRIORITY, Explain, Hints
from paceline_worker.router.parse import Call, Kind
from paceline_worker.router.prefixes.knowledge import Knowledge
from paceline_worker.router.prefixes.prompt import Prompt
from paceline_worker.router.tokens.errors import PromptTooLong
from paceline_worker.router.tokens.tokeniser import Tokeniser
from paceline_worker.router.yielding import Guest

Decision: TypeAlias = "tuple[RequestView, Sequence[EngineView], Placement | None]"

REQUEST_BYTES: Final = 16 * 1024
"""Of a request besides its body and its tokens: its connection, its task, and what is known of it."""

_EMPTY: Final[dict[str, Held]] = {}


def own_priority(call: Call, hints: Hints) -> int:
    """What the request asks for, and its tenant's standing."""
    asked = max(-MAX_PRIORITY, min(MAX_PRIORITY, call.view.priority)) if hints.priority is None else hints.priority
    return asked + call.standing


class Prepared:
    """A request on its way to a placement."""

    __slots__ = (
        "_base", "_knowledge", "_peeked", "begun", "claims", "decision", "guest", "held_bytes", "hints", "known",
        "prompt",
    )  # fmt: skip

    def __init__(
        self, base: RequestView, prompt: Prompt | None, hints: Hints, knowledge: Knowledge, held_bytes: int = 0
    ) -> None:
        self._base = base
        self.begun = False
        """See :class:`paceline_worker.router.places.Asking`, as of the next two."""
        self.claims = base.priority >= 0
        self.guest: Guest | None = None
        self.held_bytes = held_bytes
        """Memory that it takes while it waits, about."""
        self._knowledge = knowledge
        self._peeked: RequestView | None = None
        self.prompt = prompt
        """None for what has no single prompt."""
        self.hints = hints
        self.known: Mapping[str, Held] = _EMPTY
        """What engines held of the prompt at the last look."""
        self.decision: Decision | None = None
        """Kept for whoever asked for an explanation."""

    @property
    def base(self) -> RequestView:
        """Without what engines hold of it."""
        return self._base

    @property
    def priority(self) -> int:
        """See :class:`paceline_worker.router.places.Asking`."""
        return self._base.priority

    def avoid(self, engine: str) -> None:
        """The engine failed this request."""
        self._base = msgspec.structs.replace(self._base, avoid=self._base.avoid | {engine})

    def elsewhere(self, engine: str) -> Prepared:
        """The same request once more, for other engines than this one."""
        again = Prepared(self._base, self.prompt, self.hints, self._knowledge, self.held_bytes)
        again.avoid(engine)
        return again

    def peek(self) -> RequestView:
        """The next :meth:`view`, which comes at once."""
        self._peeked = self.view()
        return self._peeked

    def view(self) -> RequestView:
        """As placement sees it now: caches change while a request waits."""
        if self._peeked is not None:
            peeked, self._peeked = self._peeked, None
            return peeked
        if self.prompt is None:
            return self._base
        self.known = self._knowledge.match(self.prompt)
        if not self.known:
            return self._base
        match = {name: held.worth for name, held in self.known.items()}
        return msgspec.structs.replace(self._base, match=match)

    def decided(self, view: RequestView, engines: Sequence[EngineView], placement: Placement | None) -> None:
        """See :class:`paceline_worker.router.gate.Asking`."""
        if self.hints.explain is not Explain.NO:
            self.decision = (view, engines, placement)

    def explain(self, settings: Settings, model: EngineModel, *, most: int) -> Explanation | None:
        """The decision in numbers; None when there was none, or nobody asked."""
        if self.decision is None:
            return None
        view, engines, placement = self.decision
        return explain(
            view,
            engines,
            settings,
            model,
            placement,
            held={name: known.tokens for name, known in self.known.items()},
            exact=self.prompt is not None and self.prompt.exact,
            most=most,
        )


class Matcher:
    """One object for the process."""

    def __init__(
        self, config: wire.RouterConfig, knowledge: Knowledge, tokeniser: Tokeniser, sessions: Sessions, clock: Clock
    ) -> None:
        self._model = config.served_names[0]
        self._affinity = config.sessions.affinity
        self._knowledge = knowledge
        self._tokeniser = tokeniser
        self._sessions = sessions
        self._clock = clock

    async def prepare(self, call: Call, hints: Hints) -> Prepared:
        """Raises ApiError 400 for a prompt that is longer than the model."""
        view = call.view
        prompt = await self._prompt(call)
        prefer = frozenset[str]()
        if self._affinity and (hints.session is not None or hints.parent is not None):
            prefer = self._sessions.engines(hints.session, hints.parent, self._clock.monotonic())
        base = msgspec.structs.replace(
            view,
            prompt_tokens=view.prompt_tokens if prompt is None else prompt.tokens,
            output_tokens=hints.expected_output_tokens or view.output_tokens,
            priority=own_priority(call, hints),
            ttft_seconds=hints.ttft_seconds,
            prefer=prefer,
        )
        held = REQUEST_BYTES + sum(len(bytes(raw)) for raw in call.fields.values())
        return Prepared(base, prompt, hints, self._knowledge, held + (0 if prompt is None else prompt.held_bytes))

    def computing(self, prepared: Prepared, engine: Engine, seconds: float) -> None:
        """The engine computes the prompt, within ``seconds``: from now on others with this prefix do well to follow."""
        if prepared.prompt is not None and prepared.hints.reuse:
            known = prepared.known.get(engine.name)
            self._knowledge.sent(prepared.prompt, engine, known, seconds=seconds)

    def answering(self, prepared: Prepared, engine: Engine, prefill: Engine | None) -> None:
        """The engine answers, so it has the whole prompt now, wherever it was computed."""
        session = prepared.hints.session
        if session is not None:
            names = (engine.name,) if prefill is None else (engine.name, prefill.name)
            self._sessions.note(session, names, self._clock.monotonic())
        if prefill is not None:
            self.computing(prepared, engine, 0.0)

    def failed(self, prepared: Prepared, engine: Engine) -> None:
        """The engine did not do its part."""
        if prepared.prompt is not None:
            self._knowledge.failed(prepared.prompt, engine)

    async def _prompt(self, call: Call) -> Prompt | None:
        if call.kind is Kind.OTHER or not call.single:
            return None
        try:
            tokens = await self._tokeniser.tokens(call.kind, call.fields)
        except PromptTooLong as error:
            raise ApiError(400, str(error), param="messages" if call.kind is Kind.CHAT else "prompt") from None
        if tokens is not None:
            return self._make(call, tokens.tobytes(), len(tokens), exact=True)
        field = call.fields.get("messages" if call.kind is Kind.CHAT else "prompt")
        content = b"" if field is None else bytes(field)
        return self._make(call, content, call.view.prompt_tokens, exact=False)

    def _make(self, call: Call, content: bytes, tokens: int, *, exact: bool) -> Prompt:
        return Prompt(
            content,
            exact=exact,
            tokens=tokens,
            model=self._model,
            memory=self._knowledge.memory,
            adapter=call.view.adapter,
            salt=call.salt,
        )
