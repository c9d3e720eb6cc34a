from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import kopf
import pytest
from aiohttp import web

from paceline.controller import api as module
from paceline.controller.api import KubeApi
from paceline.controller.metrics import OperatorMetrics
from paceline.controller.refusals import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NamespaceGoing,
    NotFound,
    NotLeader,
    Unreachable,
)
from tests.controller.fakes import Answer, http_server

PODS = "/api/v1/pods"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.01)


@asynccontextmanager
async def client(answer: Answer, *, tokens: Callable[[], str] = lambda: "first") -> AsyncIterator[KubeApi]:
    async with http_server(answer) as info:

        def connect() -> kopf.ConnectionInfo:
            return replace(info, token=tokens())

        one = KubeApi(connect, OperatorMetrics())
        try:
            yield one
        finally:
            await one.close()


def status(code: int, reason: str, message: str = "words", **details: object) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return web.json_response(body, status=code)


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (400, "BadRequest", Invalid),
    ],
)
async def test_each_refusal_has_an_exception_that_names_verb_and_resource(
    code: int, reason: str, error: type[ApiError]
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return status(code, reason)

    async with client(answer) as one:
        with pytest.raises(error, match="get pods: words") as caught:
            await one.get(PODS, resource="pods")
    assert (caught.value.code, caught.value.reason) == (code, reason)


async def test_a_namespace_that_is_being_deleted_is_told_from_missing_rights() -> None:
    async def answer(_: web.Request) -> web.Response:
        return status(403, "Forbidden", causes=[{"reason": "NamespaceTerminating"}])

    async with client(answer) as one:
        with pytest.raises(NamespaceGoing):
            await one.create(PODS, {}, resource="pods")


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_busy_or_failing_server_is_asked_again(code: int) -> None:
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"ok": True}) if asked == 3 else status(code, "Trouble")

    async with client(answer) as one:
        assert await one.get(PODS, resource="pods") == {"ok": True}
    assert asked == 3


async def test_a_server_that_goes_on_failing_is_given_up_in_the_end() -> None:
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503, text="upstream is away")

    async with client(answer) as one:
        with pytest.raises(ApiError, match="upstream is away"):
            await one.get(PODS, resource="pods")
    assert asked == module.TRIES


async def test_a_pause_that_the_server_asks_for_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    really = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await really(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 10.0)
    answers = iter(["3", "86400"])

    async def answer(_: web.Request) -> web.Response:
        if (asked := next(answers, None)) is None:
            return web.json_response({})
        return web.json_response({}, status=429, headers={"Retry-After": asked})

    async with client(answer) as one:
        await one.get(PODS, resource="pods")
        assert [pause for pause in pauses if pause] == [3.0, 10.0]


async def test_no_answer_at_all_is_an_error_of_its_own() -> None:
    def connect() -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server="http://127.0.0.1:1")

    one = KubeApi(connect, OperatorMetrics())
    with pytest.raises(Unreachable, match="list pods"):
        await one.list(PODS, resource="pods")
    await one.close()


async def test_a_token_that_has_run_out_is_read_anew() -> None:
    tokens = iter(["old", "new"])

    async def answer(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == "Bearer new"
        return web.json_response({"ok": True}) if good else status(401, "Unauthorized")

    async with client(answer, tokens=lambda: next(tokens)) as one:
        assert await one.get(PODS, resource="pods") == {"ok": True}


async def test_a_fence_is_asked_before_each_try() -> None:
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return status(503, "Trouble")

    def fence() -> None:
        if asked == 2:
            raise NotLeader("the lease has run out in the meantime")

    async with client(answer) as one:
        with pytest.raises(NotLeader):
            await one.create(PODS, {}, resource="pods", fence=fence)
    assert asked == 2


async def test_lists_are_read_page_by_page_and_each_object_says_what_it_is() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "a=b"
        page = {"apiVersion": "v1", "kind": "PodList", "items": [{"n": 1}], "metadata": {"resourceVersion": "7"}}
        if "continue" not in request.query:
            page["metadata"] = {"continue": "more", "resourceVersion": "7"}
        else:
            page["items"] = [{"n": 2}]
        return web.json_response(page)

    async with client(answer) as one:
        found, version = await one.list(PODS, resource="pods", selector="a=b")
    assert found == [{"apiVersion": "v1", "kind": "Pod", "n": number} for number in (1, 2)]
    assert version == "7"


async def test_a_delete_names_the_object_that_is_meant() -> None:
    bodies = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({})

    async with client(answer) as one:
        await one.delete(f"{PODS}/a", resource="pods", uid="u-1")
    assert bodies == [{"propagationPolicy": "Background", "preconditions": {"uid": "u-1"}}]


async def test_a_watch_yields_changes_of_any_size_however_they_are_cut() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        long = '{"type": "ADDED", "object": {"data": "' + "x" * 200_000 + '"}}\n'
        for part in (long[:70_000], long[70_000:], '{"type": "DELETED", "obj', 'ect": {"n": 1}}\n\n'):
            await response.write(part.encode())
        return response

    async with client(answer) as one:
        events = [event async for event in one.watch(PODS, resource="pods", version="5")]
    assert [(event.type, len(str(event.object)) > 100_000) for event in events] == [("ADDED", True), ("DELETED", False)]


@pytest.mark.parametrize("inside", [True, False])
async def test_a_watch_whose_version_is_too_old_says_so(inside: bool) -> None:
    async def answer(_: web.Request) -> web.Response:
        if not inside:
            return status(410, "Expired")
        return web.Response(text='{"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}\n')

    async with client(answer) as one:
        with pytest.raises(Gone):
            async for _ in one.watch(PODS, resource="pods", version="5"):
                pass


async def test_requests_are_counted_by_verb_resource_and_code() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({})

    metrics = OperatorMetrics()
    async with http_server(answer) as info:
        one = KubeApi(lambda: info, metrics)
        await one.get(PODS, resource="pods")
        await one.close()
    assert b'paceline_operator_api_requests_total{code="200",resource="pods",verb="get"} 1.0' in metrics.render()
