"""The load client against a scripted server: what it sends and when, and how it judges what comes back."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from paceline.clock import WallClock
from paceline.local.load import LoadClient, LoadOptions, LoadResult, StreamEnd, read_tail
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import TraceRequest

Answer = Callable[[web.Request, dict], Awaitable[web.StreamResponse]]
Replay = Callable[..., Awaitable[LoadResult]]


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def token(text: str = "a") -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": None}]})


def usage(prompt: int, output: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


async def stream(request: web.Request, *parts: bytes, pause: asyncio.Event | None = None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    if pause is not None:
        await pause.wait()
    return response


async def whole(request: web.Request, body: dict) -> web.StreamResponse:
    tokens = [token() for _ in range(body["max_tokens"])]
    return await stream(request, *tokens, usage(len(body["prompt"]), len(tokens)), b"data: [DONE]\n\n")


@pytest.fixture
async def server() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    runners: list[web.AppRunner] = []

    async def start(answer: Answer) -> str:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await answer(request, await request.json())

        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/completions", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def replay(server: Callable[[Answer], Awaitable[str]]) -> AsyncIterator[Replay]:
    async with aiohttp.ClientSession() as session:

        async def run(answer: Answer, *requests: TraceRequest, **options: object) -> LoadResult:
            url = await server(answer)
            settings = LoadOptions(url, "model", **options)  # type: ignore[arg-type]
            client = LoadClient(settings, session=session, prompts=PromptMaker(), clock=WallClock())
            return await client.run(requests)

        yield run


def request(at: float = 0.0, tokens: int = 600, output: int = 3) -> TraceRequest:
    return TraceRequest(at, tokens, output, (1, 2) if tokens == 600 else ())


async def test_a_request_carries_the_prompt_of_its_blocks_and_asks_for_exactly_its_output(replay: Replay) -> None:
    bodies: list[dict] = []

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        bodies.append(body)
        return await whole(http, body)

    result = await replay(answer, request())
    assert [found.error for found in result.requests] == [None]
    (body,) = bodies
    assert body["prompt"] == PromptMaker().token_ids(request())
    assert (body["model"], body["max_tokens"], body["ignore_eos"], body["stream"]) == ("model", 3, True, True)
    assert body["stream_options"] == {"include_usage": True}


async def test_a_whole_answer_is_timed(replay: Replay) -> None:
    (found,) = (await replay(whole, request())).requests
    assert (found.status, found.output_tokens, found.error) == (200, 3, None)
    assert found.ttft is not None
    assert found.itl is not None
    assert found.longest_gap is not None
    assert 0 < found.ttft <= found.ended - found.sent
    assert found.longest_gap <= 2 * found.itl + 1e-9


async def test_an_answer_of_one_token_has_no_time_between_tokens(replay: Replay) -> None:
    (found,) = (await replay(whole, request(output=1))).requests
    assert found.error is None
    assert found.itl is None


async def refuse(http: web.Request, body: dict) -> web.StreamResponse:
    return web.json_response({"error": {"message": "no engine\nis ready", "code": 503}}, status=503)


async def page(http: web.Request, body: dict) -> web.StreamResponse:
    return web.Response(status=502, text="<html>oops</html>")


async def nothing(http: web.Request, body: dict) -> web.StreamResponse:
    assert http.transport is not None
    http.transport.close()
    return web.Response()


async def short(http: web.Request, body: dict) -> web.StreamResponse:
    return await stream(http, token(), usage(600, 1), b"data: [DONE]\n\n")


async def cut(http: web.Request, body: dict) -> web.StreamResponse:
    return await stream(http, token(), token())


async def broken(http: web.Request, body: dict) -> web.StreamResponse:
    return await stream(http, token(), event({"error": {"message": "the engine died", "code": 502}}))


async def mistaken(http: web.Request, body: dict) -> web.StreamResponse:
    return await stream(http, token(), usage(599, 3), b"data: [DONE]\n\n")


async def garbage(http: web.Request, body: dict) -> web.StreamResponse:
    return await stream(http, b"data: {not json\n\n", b'data: {"usage": "no"}\n\n', b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse, "503: no engine is ready"),
        (page, "502: <html>oops</html>"),
        (nothing, "ServerDisconnectedError: Server disconnected"),
        (short, "1 tokens came, 3 were asked for"),
        (cut, "the stream ended before [DONE]"),
        (broken, "the engine died"),
        (mistaken, "the engine counted 599 prompt tokens, 600 were sent"),
        (garbage, "0 tokens came, 3 were asked for"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_an_answer_that_is_not_whole_is_a_failure_that_says_why(
    replay: Replay, answer: Answer, error: str
) -> None:
    (found,) = (await replay(answer, request())).requests
    assert found.error == error
    assert found.ended > 0


async def test_a_silent_server_is_a_failure_in_time(replay: Replay) -> None:
    async def silent(http: web.Request, body: dict) -> web.StreamResponse:
        return await stream(http, token(), pause=asyncio.Event())

    (found,) = (await replay(silent, request(), idle_seconds=0.1)).requests
    assert found.error is not None
    assert "Timeout" in found.error


async def test_nobody_listening_is_a_failure_and_not_a_crash() -> None:
    async with aiohttp.ClientSession() as session:
        options = LoadOptions("http://127.0.0.1:1", "model")
        client = LoadClient(options, session=session, prompts=PromptMaker(), clock=WallClock())
        (found,) = (await client.run([request()])).requests
    assert found.status == 0
    assert found.error is not None
    assert "ClientConnectorError" in found.error


async def test_requests_are_sent_at_their_times_whether_or_not_earlier_ones_are_answered(replay: Replay) -> None:
    waiting: list[asyncio.Event] = []
    arrived = asyncio.Event()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        if len(waiting) < 2:
            mine = asyncio.Event()
            waiting.append(mine)
            await mine.wait()
        else:
            arrived.set()
            for one in waiting:
                one.set()
        return await whole(http, body)

    result = await replay(answer, request(0.0), request(0.2), request(0.4), speed=2.0)
    assert arrived.is_set()
    assert [found.scheduled for found in result.requests] == [0.0, 0.1, 0.2]
    assert all(found.late >= 0 for found in result.requests)
    assert [found.error for found in result.requests] == [None] * 3


async def test_requests_beyond_the_bound_wait_and_are_counted(replay: Replay) -> None:
    running = most = 0

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return await whole(http, body)

    result = await replay(answer, *[request()] * 12, max_in_flight=3)
    assert most <= 3
    assert 1 <= result.overruns <= 12 - 3
    assert [found.error for found in result.requests] == [None] * 12


async def test_a_load_that_is_broken_off_says_so_of_what_was_in_flight(
    server: Callable[[Answer], Awaitable[str]],
) -> None:
    begun = asyncio.Event()

    async def answer(http: web.Request, body: dict) -> web.StreamResponse:
        begun.set()
        return await stream(http, token(), pause=asyncio.Event())

    async with aiohttp.ClientSession() as session:
        options = LoadOptions(await server(answer), "model")
        client = LoadClient(options, session=session, prompts=PromptMaker(), clock=WallClock())
        task = asyncio.create_task(client.run([request()]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [found.error for found in client.result.requests] == ["broken off with the load"]
    assert client.result.seconds > 0


async def test_the_lag_of_the_client_itself_is_sampled(replay: Replay) -> None:
    result = await replay(whole, request(0.0), request(0.2))
    assert len(result.lags) >= 1
    assert all(lag >= 0 for lag in result.lags)


def test_the_end_of_a_stream_is_read_without_its_beginning() -> None:
    end = read_tail(b'": 1}\n\n' + usage(5, 7) + b"data: [DONE]\n\n")
    assert (end.done, end.usage.prompt_tokens, end.usage.completion_tokens, end.error) == (True, 5, 7, None)
    assert read_tail(b"") == StreamEnd()
