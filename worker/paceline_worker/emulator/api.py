"""The emulator's HTTP routes: vLLM's OpenAI-compatible API and the endpoints around it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from paceline.policy.engine.blockcache import Tier
from paceline_worker.emulator import protocol
from paceline_worker.emulator.answers import JSON_HEADERS, Answer, Heading, Stream, Whole
from paceline_worker.emulator.engine import EmulatedEngine
from paceline_worker.emulator.errors import ApiError, malformed
from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.options import Options
from paceline_worker.emulator.protocol import Plan
from paceline_worker.emulator.tokens import VOCABULARY, decode, encode, token_strings
from paceline_worker.emulator.voice import fold
from paceline_worker.http.message import Request, Response

METRICS_HEADERS: Final = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)
EMBEDDING_SIZE: Final = 64
"""Unless the request asks for other ``dimensions``."""
MAX_EMBEDDING_SIZE: Final = 4096
EMULATED_VERSION: Final = "0.32.0"
"""Of vLLM, whose shapes these are."""

Route = Callable[[Request, Response], Awaitable[None]]
Page = Callable[[], bytes]
"""What needs nothing of the request."""


class Api:
    """Routes requests to the engine. One instance a process; :meth:`handle` is the server's handler."""

    def __init__(self, options: Options, engine: EmulatedEngine) -> None:
        self._options = options
        self._engine = engine
        self._served = (*options.served_names, *options.loras)
        self._started = int(time.time())
        self._fingerprint = f"emulator-{options.profile.name}"
        self._routes: dict[tuple[str, str], Route] = {
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
        }
        self._pages: dict[tuple[str, str], Page] = {
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): lambda: b"",
            ("GET", "/ping"): lambda: b"",
            ("POST", "/ping"): lambda: b"",
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/kv_event_sources"): self._kv_event_sources,
        }
        if options.faults:
            self._routes["POST", "/emulator/faults"] = self._set_faults
            self._pages["GET", "/emulator/faults"] = self._get_faults
            self._pages["GET", "/emulator/blocks"] = self._blocks
        self._paths = {path for _, path in (*self._routes, *self._pages)}

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one request."""
        key = request.method, request.path
        if (page := self._pages.get(key)) is not None:
            headers = METRICS_HEADERS if request.path == "/metrics" else JSON_HEADERS
            response.send(200, page(), headers)
            return
        try:
            await self._routes.get(key, self._unknown)(request, response)
        except ApiError as error:
            response.send(error.status, error.body(), JSON_HEADERS)

    async def _unknown(self, request: Request, _response: Response) -> None:
        if request.path in self._paths:
            raise ApiError("Method Not Allowed", status=405, kind="Method Not Allowed")
        raise ApiError("Not Found", status=404, kind="Not Found")

    async def _completions(self, request: Request, response: Response) -> None:
        body = protocol.read(protocol.Completion, _json_body(request))
        model = protocol.check_model(body.model, self._served)
        plan = protocol.plan_completion(body, model, self._lora(model), self._options.max_model_len)
        await self._generate(plan, request, response, chat=False)

    async def _chat(self, request: Request, response: Response) -> None:
        body = protocol.read(protocol.Chat, _json_body(request))
        model = protocol.check_model(body.model, self._served)
        plan = protocol.plan_chat(body, model, self._lora(model), self._options.max_model_len)
        await self._generate(plan, request, response, chat=True)

    async def _generate(self, plan: Plan, request: Request, response: Response, *, chat: bool) -> None:
        faults = self._engine.faults.now
        if faults.refuse_status:
            raise ApiError("refused on request", status=faults.refuse_status, kind="ServiceUnavailableError")
        heading = self._heading(plan, request, chat=chat)
        answer: Answer
        if plan.stream:
            answer = Stream(heading, plan, response)
            answer.garbage = faults.garbage
            answer.start()
        else:
            answer = Whole(heading, plan)
        answer.generations = self._generations(plan, answer)
        for generation in answer.generations:
            self._engine.submit(generation)
        try:
            await answer.done.wait()
        except asyncio.CancelledError:
            # The client is gone; what it would have fetched elsewhere is of no use either.
            for generation in answer.generations:
                self._engine.abort(generation)
            raise
        transfer = self._engine.hold(answer.generations[0], f"{heading.id}-0")
        if isinstance(answer, Whole):
            response.send(200, answer.body(transfer), JSON_HEADERS)

    def _generations(self, plan: Plan, answer: Answer) -> list[Generation]:
        options = self._options
        seed = options.seed if plan.seed is None else plan.seed
        if plan.lora is not None:
            seed = fold(plan.lora.encode(), seed)
        generations = []
        for number, prompt in enumerate(plan.prompts):
            room = options.max_model_len - len(prompt)
            limit = room if plan.max_tokens is None else min(plan.max_tokens, room)
            for choice in range(plan.choices):
                index = number * plan.choices + choice
                generations.append(
                    Generation(
                        plan,
                        prompt,
                        index,
                        sink=answer,
                        output_limit=limit,
                        block_size=options.block_size,
                        seed=seed + choice,
                        # Blocks are fetched and held once a request, as vLLM's router protocol has it.
                        transfers=index == 0 and options.side_channel is not None,
                    )
                )
        return generations

    def _heading(self, plan: Plan, request: Request, *, chat: bool) -> Heading:
        given = plan.request_id or (request.header(b"x-request-id") or b"").decode("latin-1")
        return Heading(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{given or uuid.uuid4().hex}",
            created=int(time.time()),
            model=plan.model,
            chat=chat,
            fingerprint=self._fingerprint,
            prompt_tokens_details=self._options.prompt_tokens_details,
        )

    def _lora(self, model: str) -> str | None:
        return model if model in self._options.loras else None

    async def _embeddings(self, request: Request, response: Response) -> None:
        body = protocol.read(protocol.Embedding, _json_body(request))
        model = protocol.check_model(body.model, self._served)
        size = EMBEDDING_SIZE if body.dimensions is None else body.dimensions
        if not 1 <= size <= MAX_EMBEDDING_SIZE:
            raise ApiError(f"dimensions must be 1 to {MAX_EMBEDDING_SIZE}, got {size}.", param="dimensions")
        if body.encoding_format not in ("float", "base64"):
            raise ApiError(
                f"encoding_format must be float or base64, got {body.encoding_format}.", param="encoding_format"
            )
        prompts = protocol.token_prompts(body.input, "input")
        tokens = sum(map(len, prompts))
        await asyncio.sleep(self._options.profile.prefill_seconds(tokens) / self._options.speed)
        data = [
            {"index": index, "object": "embedding", "embedding": _embedding(prompt, size, body.encoding_format)}
            for index, prompt in enumerate(prompts)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
        _send(
            response,
            {
                "id": f"embd-{uuid.uuid4().hex}",
                "object": "list",
                "created": int(time.time()),
                "model": model,
                "data": data,
                "usage": usage,
            },
        )

    async def _tokenize(self, request: Request, response: Response) -> None:
        body = protocol.read(protocol.Tokenize, _json_body(request))
        protocol.check_model(body.model, self._served)
        if (body.prompt is None) == (body.messages is None):
            raise malformed("exactly one of prompt and messages is required", "prompt")
        if body.messages is not None:
            tokens = encode(protocol.conversation(body.messages, open_answer=body.add_generation_prompt))
        else:
            tokens = encode(body.prompt or "")
        strings = token_strings(tokens) if body.return_token_strs else None
        limit = self._options.max_model_len
        _send(response, {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": strings})

    async def _detokenize(self, request: Request, response: Response) -> None:
        body = protocol.read(protocol.Detokenize, _json_body(request))
        protocol.check_model(body.model, self._served)
        if body.tokens and not 0 <= min(body.tokens) <= max(body.tokens) < VOCABULARY:
            raise ApiError(f"tokens must be 0 to {VOCABULARY - 1}.", param="tokens")
        _send(response, {"prompt": decode(body.tokens)})

    def _models(self) -> bytes:
        options = self._options
        cards: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "vllm",
                "root": options.model,
                "parent": options.served_names[0] if name in options.loras else None,
                "max_model_len": options.max_model_len,
                "permission": [],
            }
            for name in self._served
        ]
        return msgspec.json.encode({"object": "list", "data": cards})

    def _version(self) -> bytes:
        profile = self._options.profile
        return msgspec.json.encode(
            {
                "version": f"{EMULATED_VERSION}+emulator",
                "emulator": True,
                "profile": profile.name,
                "speed": self._options.speed,
                "estimate": profile.estimate,
                "provenance": profile.provenance,
            },
        )

    def _metrics(self) -> bytes:
        model, options = self._engine.model, self._options
        gauges = {
            "num_requests_running": model.running,
            "num_requests_waiting": model.waiting + model.deferred,
            "kv_cache_usage_perc": model.usage,
        }
        cache = {
            "engine": "0",
            "block_size": str(options.block_size),
            "num_gpu_blocks": str(options.kv_blocks),
            "num_cpu_blocks": str(options.host_blocks),
            "enable_prefix_caching": str(options.prefix_caching),
            "cache_dtype": "auto",
        }
        return self._engine.metrics.render(
            gauges=gauges,
            waiting={"capacity": model.waiting, "deferred": model.deferred},
            cache_config=cache,
            own=self._engine.sizes(),
        )

    def _kv_event_sources(self) -> bytes:
        events = self._options.kv_events
        return msgspec.json.encode({} if events is None else {"0": msgspec.to_builtins(events)})

    def _reset_prefix_cache(self) -> bytes:
        return msgspec.json.encode({"success": self._engine.reset_prefix_cache()})

    def _blocks(self) -> bytes:
        """What the cache holds, by the names that its events use: for whoever checks what was made of them."""
        cache = self._engine.model.cache
        return msgspec.json.encode({tier.value: cache.contents(tier) for tier in Tier})

    async def _set_faults(self, request: Request, response: Response) -> None:
        self._engine.faults.replace(request.body)
        response.send(200, self._get_faults(), JSON_HEADERS)

    def _get_faults(self) -> bytes:
        return msgspec.json.encode(self._engine.faults.now)


def _json_body(request: Request) -> bytes:
    kind = (request.header(b"content-type") or b"").split(b";", 1)[0].strip().lower()
    if kind != b"application/json":
        raise malformed("Unsupported Media Type: Only 'application/json' is allowed")
    return request.body


def _send(response: Response, document: dict[str, Any]) -> None:
    response.send(200, msgspec.json.encode(document), JSON_HEADERS)


def _embedding(tokens: list[int], size: int, encoding: str) -> list[float] | str:
    """A unit vector that follows from the tokens alone."""
    stream = hashlib.shake_128(repr(tokens).encode()).digest(size * 2)
    raw = [number / 32768 for number in struct.unpack(f"<{size}h", stream)]
    norm = sum(x * x for x in raw) ** 0.5 or 1.0
    vector = [x / norm for x in raw]
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
