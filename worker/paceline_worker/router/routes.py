"""What the router serves: one handler that finds the route, parses, runs the flow, and counts the outcome."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import Final

import msgspec

from paceline.api import wire
from paceline.clock import Clock
from paceline_worker.http.headers import JSON, end_to_end, render
from paceline_worker.http.message import Request, Response
from paceline_worker.router.errors import ApiError, method_not_allowed
from paceline_worker.router.fleet import Fleet
from paceline_worker.router.flow import BrokenStream, Flow
from paceline_worker.router.hints import PREFIX as HINT_PREFIX
from paceline_worker.router.hints import read_hints
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.outcomes import Outcomes
from paceline_worker.router.parse import Kind, Rules, parse
from paceline_worker.router.slo import NO_CLASS, SloCounts
from paceline_worker.router.tenants.accounts import NO_VISIT, Account, OverLimit, TenantVisit, Visit
from paceline_worker.router.tenants.door import AUTHORIZATION, Door, Unauthorized
from paceline_worker.router.tenants.keys import KeyRing
from paceline_worker.router.tenants.terms import Terms
from paceline_worker.router.tracing.trace import TRACE_PARENT, Trace, Tracer

log = logging.getLogger(__name__)

CALLS: Final = {
    "/v1/completions": Kind.COMPLETION,
    "/v1/chat/completions": Kind.CHAT,
    "/v1/embeddings": Kind.OTHER,
    "/tokenize": Kind.OTHER,
    "/detokenize": Kind.OTHER,
}
HEALTH: Final = "/health"
"""For whoever balances load: it has no key."""
REQUEST_ID: Final = b"x-request-id"
MAX_REQUEST_ID_BYTES: Final = 256
SHOWN_PATH: Final = 200
"""Characters of an unknown path that its error repeats."""


class Routes:
    """The handler of the API server."""

    def __init__(
        self,
        config: wire.RouterConfig,
        fleet: Fleet,
        flow: Flow,
        metrics: Metrics,
        outcomes: Outcomes,
        slo: SloCounts,
        clock: Clock,
        tracer: Tracer,
        tenants: tuple[wire.Tenancy, KeyRing] | None = None,
    ) -> None:
        adapters = frozenset(config.lora_names)
        self._rules = Rules(adapters.union(config.served_names), adapters, config.max_model_len, config.media)
        self._classes = {entry.name: entry for entry in config.classes}
        self._models = _model_list(config, self._rules.models)
        self.door = None
        """Where tenants are let in; None where everybody is served."""
        if tenants is not None:
            self.door = Door(*tenants, self._rules, partial(_model_list, config), clock)
        self._answer_seconds = config.timeouts.answer_seconds
        self._terms = _common_terms(config)
        self._fleet = fleet
        self._flow = flow
        self._metrics = metrics
        self._outcomes = outcomes
        self._slo = slo
        self._tracer = tracer
        self._clock = clock
        self.running = 0
        """Generation requests in the router, queued ones among them."""

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one request."""
        request_id = (REQUEST_ID, _request_id(request))
        kind = CALLS.get(request.path)
        try:
            account = None
            if self.door is not None and request.path != HEALTH:
                account = self._enter(self.door, request, known=kind is not None)
            if kind is None:
                self._answer_itself(request, response, request_id, account)
            else:
                await self._call(kind, request, response, request_id, account)
        except ApiError as error:
            error.send(response, request_id)

    def _enter(self, door: Door, request: Request, *, known: bool) -> Account:
        try:
            return door.enter(request)
        except Unauthorized:
            if known:
                self._metrics.requests.add("unauthorized", request.path)
            raise

    async def _call(
        self,
        kind: Kind,
        request: Request,
        response: Response,
        request_id: tuple[bytes, bytes],
        account: Account | None,
    ) -> None:
        arrived = self._clock.monotonic()
        visit = NO_VISIT if account is None else TenantVisit(account)
        outcome, request_class = "internal_error", NO_CLASS
        life = asyncio.timeout(self._answer_seconds)
        self.running += 1
        trace = self._tracer.begin(request, request_id[1])
        try:
            _check_method(request, "POST")
            visit.begin()
            incoming = self._incoming(kind, request, request_id, arrived, trace, account, visit)
            request_class = incoming.request_class
            async with life:
                await self._flow.run(incoming, response)
            outcome = "ok" if response.status < 400 else "client_error"
        except TimeoutError:
            if not life.expired():
                raise
            outcome = "expired"
            self._expire(response)
        except ApiError as error:
            outcome = _outcome(error)
            if error.reason:
                self._metrics.rejections.add(error.reason)
                self._outcomes.refused()
            raise
        except BrokenStream as broken:
            outcome = "broken"
            log.warning("request %s broke off: %s", request_id[1].decode("latin-1"), broken)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self.running -= 1
            trace.end(outcome)
            visit.end(outcome)
            self._metrics.requests.add(outcome, request.path)
            self._slo.ended(request_class, outcome)
            took = self._clock.monotonic() - arrived
            self._metrics.request_seconds.observe(took, trace.exemplar(took, self._clock.wall()))

    def _expire(self, response: Response) -> None:
        """End an answer that has lived as long as it may. Raises ApiError where it has not begun."""
        error = ApiError(504, f"The answer took longer than {self._answer_seconds} s, which is the limit here.")
        if not response.started:
            raise error
        response.write(b"\n\n" + error.event())
        response.end()

    def _incoming(
        self,
        kind: Kind,
        request: Request,
        request_id: tuple[bytes, bytes],
        arrived: float,
        trace: Trace,
        account: Account | None,
        visit: Visit,
    ) -> Incoming:
        hints = read_hints(request, self._classes)
        own = (REQUEST_ID, b"content-type", *((TRACE_PARENT,) if trace.replaces_parent else ()))
        chosen = self._classes.get(hints.request_class or "")
        of_class = None if chosen is None else chosen.reasoning_tokens
        if account is None:
            call = parse(kind, request.body, self._rules)
            if self._terms is not None:
                call = self._terms.impose(call, class_reasoning_tokens=of_class)
        else:
            call = account.terms.impose(parse(kind, request.body, account.rules), class_reasoning_tokens=of_class)
            hints = account.terms.limit(hints, 0 if chosen is None else chosen.priority)
            own = (*own, AUTHORIZATION)  # a key is between its tenant and us
        headers = [
            pair for pair in end_to_end(request.headers) if pair[0] not in own and not pair[0].startswith(HINT_PREFIX)
        ]
        target = f"{request.path}?{request.query}" if request.query else request.path
        return Incoming(
            call=call,
            hints=hints,
            target=target.encode("latin-1"),
            headers=render([*headers, JSON, request_id]),
            request_id=request_id,
            arrived=arrived,
            trace=trace,
            visit=visit,
        )

    def _answer_itself(
        self, request: Request, response: Response, request_id: tuple[bytes, bytes], account: Account | None
    ) -> None:
        if request.path == "/v1/models":
            _check_method(request, "GET", "HEAD")
            response.send(200, self._models if account is None else account.models, (JSON, request_id))
        elif request.path == HEALTH:
            _check_method(request, "GET", "HEAD")
            if not any(engine.usable for engine in self._fleet):
                raise ApiError(503, "No engine is usable.")
            response.send(200, b"", (request_id,))
        else:
            raise ApiError(404, f"{request.path[:SHOWN_PATH]} is not served here.")


def _common_terms(config: wire.RouterConfig) -> Terms | None:
    """Of those who are no tenants; None where nothing of their requests is to be changed."""
    limited = config.reasoning_tokens is not None or any(one.reasoning_tokens is not None for one in config.classes)
    return Terms(reasoning_tokens=config.reasoning_tokens) if limited else None


def _check_method(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise method_not_allowed(request.method, request.path, ", ".join(allowed))


def _request_id(request: Request) -> bytes:
    given = request.header(REQUEST_ID)
    return given if given and len(given) <= MAX_REQUEST_ID_BYTES else os.urandom(16).hex().encode()


def _outcome(error: ApiError) -> str:
    if error.reason:
        return "rejected"
    if isinstance(error, OverLimit):
        return "limited"
    return "client_error" if error.status < 500 else "upstream_error"


def _model_list(config: wire.RouterConfig, shown: frozenset[str]) -> bytes:
    """OpenAI's list of models, of those that are ``shown``; adapters name the model that they sit on."""
    base = config.served_names[0]
    common = {"object": "model", "created": 0, "owned_by": "paceline"}
    length = {} if config.max_model_len is None else {"max_model_len": config.max_model_len}
    models = [{"id": name, **common, "root": base, "parent": None, **length} for name in config.served_names]
    models += [{"id": name, **common, "root": name, "parent": base} for name in config.lora_names]
    return msgspec.json.encode({"object": "list", "data": [model for model in models if model["id"] in shown]})
