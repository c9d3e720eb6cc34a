"""Lists and watches pods at the Kubernetes API, with the credentials of the router's own ServiceAccount.

Plain HTTP instead of a client library: a router needs two requests of the API, and its process should stay small. The
fleet source calls it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
import msgspec

from paceline.errors import ConfigError, PacelineError
from paceline.unreadable import UNREADABLE
from paceline_worker.router.fleet_pods import Pod

PAGE: Final = 500
"""Pods in one answer of a list."""
MAX_PODS: Final = 10_000
"""Engines of one deployment that a router follows; more of them is a wrong selector."""
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""The API server stores objects of up to 1.5 MiB."""
TIMEOUT_SECONDS: Final = 15.0
SILENCE_SECONDS: Final = 90.0
"""A watch says something once a minute (a bookmark); one that is silent for longer is a dead connection."""
GONE: Final = 410
TOO_MANY_REQUESTS: Final = 429


T = TypeVar("T")


class WatchBroken(PacelineError):
    """The API server can't be asked just now. ``kind`` is one of a few words, for the metrics."""

    def __init__(self, kind: str, message: str, *, retry_after_seconds: float = 0.0) -> None:
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class PodSelection:
    """Which pods, of which API server, as whom."""

    server: str
    """``https://host:port``"""
    namespace: str
    selector: str
    """Label selector."""
    account_folder: Path
    """Holds ``ca.crt`` and ``token``, which the kubelet renews."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a pod. ``pod`` is None for a bookmark, which carries only ``version``."""

    kind: str
    version: str
    pod: Pod | None


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    # `continue` is a word of Python's own.
    continuation: str = msgspec.field(default="", name="continue")


class _PodList(msgspec.Struct):
    metadata: _ListMetadata
    items: list[Pod] | None = None


class _RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _BookmarkMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMetadata


class PodApi:
    """The API server, as far as a router needs it. Use within a running loop; close it when done."""

    def __init__(self, selection: PodSelection) -> None:
        self._selection = selection
        self._path = f"{selection.server}/api/v1/namespaces/{selection.namespace}/pods"
        self._session: aiohttp.ClientSession | None = None

    async def list_all(self) -> tuple[dict[str, Pod], str]:
        """All pods by name, and the version from which to watch on. Raises WatchBroken."""
        pods: dict[str, Pod] = {}
        continuation = ""
        while True:
            parameters = {"labelSelector": self._selection.selector, "limit": str(PAGE)}
            if continuation:
                parameters["continue"] = continuation
            page = _decode(_PodList, await self._page(parameters))
            pods.update((pod.metadata.name, pod) for pod in page.items or ())
            if len(pods) > MAX_PODS:
                raise WatchBroken("too-many", f"More than {MAX_PODS} pods match {self._selection.selector}.")
            continuation = page.metadata.continuation
            if not continuation:
                return pods, page.metadata.resource_version

    async def watch(self, version: str, *, seconds: int) -> AsyncIterator[list[Event]]:
        """Events after ``version`` as they come, those that come together in one list. The first list is empty and
        says that the server took the watch; the iteration ends when the server ends it, within ``seconds``.

        Raises WatchBroken; its kind is ``expired`` when ``version`` is too old and a list is needed.
        """
        parameters = {
            "labelSelector": self._selection.selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            async with await self._get(parameters, timeout) as response:
                yield []
                rest = b""
                async for piece, _ in response.content.iter_chunks():
                    *lines, rest = (rest + piece).split(b"\n")
                    if len(rest) > MAX_EVENT_BYTES:
                        raise WatchBroken("malformed", f"An event of more than {MAX_EVENT_BYTES} bytes.")
                    if events := [_event(line) for line in lines if line]:
                        yield events
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self._selection.server, error) from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _page(self, parameters: dict[str, str]) -> bytes:
        try:
            async with await self._get(parameters, aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)) as response:
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > MAX_BODY_BYTES:
                        raise WatchBroken("malformed", f"A list of more than {MAX_BODY_BYTES} bytes.")
                return bytes(body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self._selection.server, error) from None

    async def _get(self, parameters: dict[str, str], limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._trust()))
        headers = {"Accept": "application/json", "Authorization": f"Bearer {await self._token()}"}
        response = await self._session.get(self._path, params=parameters, headers=headers, timeout=limits)
        if response.status == 200:
            return response
        async with response:
            text = (await response.content.read(MAX_EVENT_BYTES)).decode(errors="replace")
            raise _refused(response, text, self._selection)

    async def _token(self) -> str:
        """Read anew for every request: the kubelet replaces it within the hour."""
        path = self._selection.account_folder / "token"
        try:
            return (await asyncio.to_thread(path.read_text)).strip()
        except OSError as error:
            raise WatchBroken(
                "no-token", f"The ServiceAccount's token {path} can't be read: {error.strerror}."
            ) from None

    def _trust(self) -> ssl.SSLContext | bool:
        if self._selection.server.startswith("http:"):
            return True
        path = self._selection.account_folder / "ca.crt"
        try:
            return ssl.create_default_context(cafile=str(path))
        except (OSError, ssl.SSLError) as error:
            raise WatchBroken(
                "no-token", f"The cluster's certificate authority {path} can't be used: {error}."
            ) from None


def require_account(selection: PodSelection) -> None:
    """Raise ConfigError unless the ServiceAccount's files are there: without them no request can ever succeed."""
    for name in ("token", "ca.crt"):
        if not (selection.account_folder / name).is_file():
            raise ConfigError(
                f"--service-account-dir: {selection.account_folder} holds no {name}. The router's pod needs a "
                f"ServiceAccount with automountServiceAccountToken: true; or use --fleet-source file."
            )


def _event(line: bytes) -> Event:
    raw = _decode(_RawEvent, line)
    if raw.type == "ERROR":
        status = _decode(_Status, raw.object)
        kind = "expired" if status.code == GONE else "refused"
        raise WatchBroken(kind, f"The watch of pods ended: {status.message or status.code}.")
    if raw.type == "BOOKMARK":
        return Event(raw.type, _decode(_Bookmark, raw.object).metadata.resource_version, None)
    pod = _decode(Pod, raw.object)
    return Event(raw.type, pod.metadata.resource_version, pod)


def _decode(kind: type[T], document: bytes | msgspec.Raw) -> T:
    try:
        return msgspec.json.decode(document, type=kind)
    except UNREADABLE as error:
        raise WatchBroken("malformed", f"The API server's answer is not understood: {error}") from None


def _refused(response: aiohttp.ClientResponse, text: str, selection: PodSelection) -> WatchBroken:
    status = response.status
    if status == GONE:
        return WatchBroken("expired", "The version to watch from is too old.")
    after = response.headers.get("Retry-After", "")
    retry = float(after) if after.isdecimal() else 0.0
    fix = ""
    if status in {401, 403}:
        fix = f" The router's ServiceAccount must be allowed to get, list and watch pods in {selection.namespace}."
    message = f"The API server answers {status} to the router's question for pods: {text[:500].strip()}{fix}"
    return WatchBroken("throttled" if status == TOO_MANY_REQUESTS else "refused", message, retry_after_seconds=retry)


def _unreachable(server: str, error: Exception) -> WatchBroken:
    what = str(error) or type(error).__name__
    return WatchBroken("unreachable", f"The API server at {server} can't be reached: {what}.")
