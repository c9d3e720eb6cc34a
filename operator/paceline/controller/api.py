"""A client of the Kubernetes API: JSON in, JSON out, with bounded retries. Called by everything here that reads or
writes.

Objects stay plain dicts: builders make dicts, and typed models of the generated client cost ten times the time of
parsing. How to reach the server comes from kopf's login functions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import kopf
import msgspec

from paceline.controller.metrics import OperatorMetrics
from paceline.controller.refusals import ApiError, Unreachable, refusal
from paceline.unreadable import UNREADABLE

Json = dict[str, Any]
Fence = Callable[[], None]
"""Asked right before a request is sent, each time that it is; raises where it must not be."""

TRIES: Final = 4
"""Of one request, before its failure is the caller's. Longer troubles are the work queue's matter."""
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0
"""Also of a pause that the server asks for."""
REQUEST_SECONDS: Final = 30.0
CONNECTIONS: Final = 64
PAGE: Final = 500
"""Objects in one page of a list."""
IDLE_WATCH_SECONDS: Final = 90.0
"""A watch without a word, not even a bookmark (which come every minute), is taken for dead."""
LONGEST_LINE: Final = 16 * 1024 * 1024
"""Bytes of one watch event; etcd holds 1.5 MB an object."""

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change that a watch reports."""

    type: str
    object: Json


class KubeApi:
    """One connection pool to one server. :meth:`close` it."""

    def __init__(self, connect: Callable[[], kopf.ConnectionInfo], metrics: OperatorMetrics) -> None:
        self._connect = connect
        self._metrics = metrics
        self._info = connect()
        self._session = self._new_session()

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._info.as_ssl_context()),
            headers={**self._info.as_http_headers(), "Accept": "application/json", "User-Agent": "paceline-operator"},
            trust_env=self._info.trust_env,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, path: str, *, resource: str, **query: str) -> Json:
        """Read one object, or one page of a list."""
        return await self._request("get", path, resource=resource, query=query)

    async def list(self, path: str, *, resource: str, selector: str = "") -> tuple[list[Json], str]:
        """All objects of a collection, page by page, and the version to watch from."""
        items: list[Json] = []
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._request("list", path, resource=resource, query=query)
            # The server says once for a whole list what its items are; in a watch each says it.
            named = {"apiVersion": page.get("apiVersion"), "kind": str(page.get("kind")).removesuffix("List")}
            items.extend({**named, **item} for item in page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    async def patch(
        self,
        path: str,
        body: Json,
        *,
        resource: str,
        content_type: str = MERGE,
        fence: Fence | None = None,
        **query: str,
    ) -> Json:
        """Change one object. With ``content_type`` APPLY it is made where it is missing."""
        verb = "apply" if content_type == APPLY else "patch"
        return await self._request(
            verb, path, resource=resource, query=query, body=body, content_type=content_type, fence=fence
        )

    async def create(self, path: str, body: Json, *, resource: str, fence: Fence | None = None) -> Json:
        """Make an object. Raises Conflict where there is one of its name."""
        return await self._request("create", path, resource=resource, body=body, fence=fence)

    async def replace(self, path: str, body: Json, *, resource: str) -> Json:
        """Put an object in the place of its former version. Raises Conflict where that is not the one in ``body``."""
        return await self._request("update", path, resource=resource, body=body)

    async def delete(self, path: str, *, resource: str, uid: str | None = None, fence: Fence | None = None) -> None:
        """Delete an object, and what it owns in the background. Raises Conflict where it is another than ``uid``."""
        options: Json = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        await self._request("delete", path, resource=resource, body=options, fence=fence)

    async def watch(self, path: str, *, resource: str, version: str, selector: str = "") -> AsyncIterator[WatchEvent]:
        """Changes after ``version``, until the server ends the watch. Raises Gone where that is too long ago."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            # Spread, so that not all watches end together.
            "timeoutSeconds": str(random.randint(240, 360)),  # noqa: S311 - spreads load, keeps no secret
        } | ({"labelSelector": selector} if selector else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=IDLE_WATCH_SECONDS)
        try:
            async with self._session.get(self._info.server + path, params=query, timeout=timeout) as response:
                self._metrics.api_request("watch", resource, response.status)
                if response.status != 200:
                    if response.status == 401:
                        await self._renew()
                    raise _refused("watch", resource, response.status, await response.read())
                async for line in _lines(response.content):
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise refusal("watch", resource, int(status.get("code") or 500), status, "")
                    yield WatchEvent(event["type"], event["object"])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"watch {resource}: {_words(error)}.") from None

    async def _request(
        self,
        verb: str,
        path: str,
        *,
        resource: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        fence: Fence | None = None,
    ) -> Json:
        data = None if body is None else msgspec.json.encode(body)
        pause = FIRST_PAUSE_SECONDS
        for tries_left in reversed(range(TRIES)):
            if fence is not None:
                fence()
            try:
                async with self._session.request(
                    _METHODS[verb],
                    self._info.server + path,
                    params=query or None,
                    data=data,
                    headers={"Content-Type": content_type},
                    timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
                ) as response:
                    text = await response.read()
                    code, asked = response.status, response.headers.get("Retry-After", "")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._metrics.api_request(verb, resource, 0)
                if not tries_left:
                    raise Unreachable(f"{verb} {resource}: {_words(error)}.") from None
                asked = ""
            else:
                self._metrics.api_request(verb, resource, code)
                if code < 300:
                    answer: Json = msgspec.json.decode(text) if text else {}
                    return answer
                if code == 401 and tries_left:
                    await self._renew()
                elif not tries_left or not (code == 429 or code >= 500):
                    raise _refused(verb, resource, code, text)
            wait = float(asked) if asked.isdigit() else pause * random.uniform(0.5, 1.5)  # noqa: S311
            await asyncio.sleep(min(wait, LONGEST_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError("the last try returns or raises")

    async def _renew(self) -> None:
        """Log in anew: tokens of service accounts are replaced while the operator runs."""
        self._info = self._connect()
        old, self._session = self._session, self._new_session()
        await old.close()


_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "patch": "PATCH",
    "apply": "PATCH",
    "create": "POST",
    "update": "PUT",
    "delete": "DELETE",
}


def _refused(verb: str, resource: str, code: int, text: bytes) -> ApiError:
    try:
        status = msgspec.json.decode(text)
    except UNREADABLE:
        status = None
    return refusal(verb, resource, code, status if isinstance(status, dict) else None, text.decode(errors="replace"))


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to LONGEST_LINE: the reader's own ``readline`` stops at 64 KiB."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > LONGEST_LINE:
            raise aiohttp.ClientPayloadError(f"an event of more than {LONGEST_LINE} bytes")
