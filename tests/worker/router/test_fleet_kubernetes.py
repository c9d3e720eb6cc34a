"""The fleet of a router in a cluster: which pods are engines, and that no change of theirs is missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.api import labels, wire
from paceline.errors import ConfigError
from paceline_worker.router import pod_api
from paceline_worker.router.fleet_kubernetes import KubernetesFleet
from paceline_worker.router.fleet_pods import Pod, endpoint
from paceline_worker.router.pod_api import PodApi, PodSelection, require_account
from paceline_worker.router.settings import read
from tests.worker.router.fake_pod_api import FakePodApi, pod
from tests.worker.router.fakes import config

SELECTOR = "paceline.dev/deployment=small,paceline.dev/component=engine"


def seen(**changes: Any) -> wire.EngineEndpoint | None:
    return endpoint(msgspec.convert(pod("a", **changes), Pod))


def test_a_ready_pod_is_an_engine_at_its_address() -> None:
    assert seen() == wire.EngineEndpoint(
        name="a", host="127.0.9.9", port=8000, role=wire.Role.DECODE, state=wire.EngineState.READY, start_id="uid-a-0",
        revision="r1", kv_events="tcp://127.0.9.9:20080", kv_replay="tcp://127.0.9.9:21080", zone="zone-a",
        node="gpu-a",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"ready": False}, "starting"),
        ({"draining": True}, "draining"),
        ({"going": True}, "draining"),
        ({"ready": False, "draining": True}, "draining"),
    ],
)
def test_a_pod_that_is_not_ready_drains_or_goes_takes_no_new_work(changes: dict[str, bool], state: str) -> None:
    found = seen(**changes)
    assert found is not None
    assert found.state == state


def test_a_pod_that_finishes_first_before_it_changes_its_role_takes_no_new_work_meanwhile() -> None:
    found = pod("a")
    found["metadata"]["annotations"] = {labels.NEXT_ROLE: "prefill"}
    described = endpoint(msgspec.convert(found, Pod))
    assert described is not None
    assert (described.role, described.state) == (wire.Role.DECODE, wire.EngineState.DRAINING)


@pytest.mark.parametrize(("note", "tls"), [("true", True), ("false", False), (None, False)])
def test_a_pod_says_whether_its_engine_speaks_tls(note: str | None, tls: bool) -> None:
    found = pod("a")
    found["metadata"]["annotations"] = {} if note is None else {labels.TLS: note}
    described = endpoint(msgspec.convert(found, Pod))
    assert described is not None
    assert described.tls is tls


@pytest.mark.parametrize("changes", [{"role": None}, {"role": "chef"}, {"ip": ""}, {"phase": "Failed"}])
def test_a_pod_without_role_or_address_or_after_its_end_is_no_engine(changes: dict[str, Any]) -> None:
    assert seen(**changes) is None


def test_a_container_that_restarts_is_another_engine_because_its_cache_is_empty() -> None:
    before, after = seen(), seen(restarts=1)
    assert before is not None
    assert after is not None
    assert before.start_id != after.start_id


def test_an_ipv6_address_is_put_in_brackets_for_zmq() -> None:
    found = seen(ip="fd00::7")
    assert found is not None
    assert (found.host, found.kv_events) == ("fd00::7", "tcp://[fd00::7]:20080")


def test_each_data_parallel_rank_has_a_port_for_its_events() -> None:
    found = pod("a")
    (engine,) = [one for one in found["spec"]["containers"] if one["name"] == "engine"]
    engine["ports"] += [{"name": f"kv-{kind}-1", "containerPort": 1} for kind in ("events", "replay")]
    described = endpoint(msgspec.convert(found, Pod))
    assert described is not None
    assert described.data_parallel == 2


class Follower:
    """A fleet source under test, and what it said."""

    def __init__(self, api: FakePodApi, folder: Path) -> None:
        self.api = api
        self.fleets: list[wire.Fleet] = []
        self.breaks: Counter[str] = Counter()
        self._news = asyncio.Event()
        selection = PodSelection(f"http://127.0.0.1:{api.port}", "default", SELECTOR, folder)
        self.source = KubernetesFleet(PodApi(selection), self._apply, self._broken, lambda: 0.0)

    def _apply(self, fleet: wire.Fleet) -> None:
        self.fleets.append(fleet)
        self._news.set()

    def _broken(self, kind: str) -> None:
        self.breaks[kind] += 1
        self._news.set()

    @property
    def states(self) -> dict[str, str]:
        return {engine.name: str(engine.state) for engine in self.fleets[-1].engines} if self.fleets else {}

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def api() -> AsyncIterator[FakePodApi]:
    server = FakePodApi()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def follower(api: FakePodApi, tmp_path: Path) -> AsyncIterator[Follower]:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("unused with plain HTTP")
    one = Follower(api, tmp_path)
    api.put(pod("a"), pod("b"))
    task = asyncio.create_task(one.source.follow())
    await one.until(lambda: one.states == {"a": "ready", "b": "ready"})
    await asyncio.wait_for(api.watched.wait(), 60)
    yield one
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await one.source.close()


async def test_every_change_of_a_pod_reaches_the_fleet(api: FakePodApi, follower: Follower) -> None:
    api.put(pod("c", ready=False))
    await follower.until(lambda: follower.states.get("c") == "starting")
    api.put(pod("c"))
    await follower.until(lambda: follower.states.get("c") == "ready")
    api.put(pod("a", draining=True))
    await follower.until(lambda: follower.states["a"] == "draining")
    api.remove("a")
    await follower.until(lambda: "a" not in follower.states)
    assert [fleet.version for fleet in follower.fleets] == sorted({fleet.version for fleet in follower.fleets})
    assert api.lists == 1


async def test_it_asks_for_its_own_pods_only_as_itself(api: FakePodApi, follower: Follower) -> None:
    assert {query["labelSelector"] for query in api.queries} == {SELECTOR}
    assert set(api.tokens) == {"Bearer first"}


async def test_a_change_that_means_nothing_to_a_router_makes_no_new_fleet(api: FakePodApi, follower: Follower) -> None:
    before = follower.fleets[-1].version
    same = pod("a")
    same["metadata"]["annotations"] = {"somebody/else": "wrote this"}
    api.put(same)
    api.put(pod("b", ready=False))
    await follower.until(lambda: follower.states["b"] == "starting")
    assert follower.fleets[-1].version == before + 1


async def test_a_watch_that_ends_in_good_order_goes_on_from_the_last_bookmark(
    api: FakePodApi, follower: Follower
) -> None:
    api.bookmark()
    api.watched.clear()
    api.end_watches()
    await asyncio.wait_for(api.watched.wait(), 60)
    assert api.queries[-1]["resourceVersion"] == str(api.version)
    assert (api.lists, follower.breaks) == (1, {})
    assert follower.source.stale_seconds == 0


async def test_an_expired_watch_is_followed_by_a_list_so_that_no_dead_engine_stays(
    api: FakePodApi, follower: Follower
) -> None:
    api.pods.pop("a")  # while nobody was looking
    api.send({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}})
    await follower.until(lambda: follower.states == {"b": "ready"})
    assert follower.breaks == {"expired": 1}


@pytest.mark.parametrize("data", [b"{half a doc\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{}}\n'])
async def test_an_event_that_is_not_understood_is_followed_by_a_list(
    api: FakePodApi, follower: Follower, data: bytes
) -> None:
    api.send_raw(data)
    await follower.until(lambda: follower.breaks == {"malformed": 1})
    api.pods.pop("b")
    await follower.until(lambda: follower.states == {"a": "ready"})


async def test_an_event_in_pieces_is_put_together(api: FakePodApi, follower: Follower) -> None:
    whole = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"77"}}}\n'
    api.watched.clear()
    api.send_raw(whole[:30])
    api.send_raw(whole[30:])
    api.end_watches()
    await asyncio.wait_for(api.watched.wait(), 60)
    assert api.queries[-1]["resourceVersion"] == "77"


async def test_an_event_without_end_is_cut_off(
    api: FakePodApi, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_api, "MAX_EVENT_BYTES", 1000)
    api.send_raw(b"x" * 1001)
    await follower.until(lambda: follower.breaks["malformed"] == 1)


async def test_while_the_api_server_is_away_the_last_fleet_stays_and_is_called_stale(
    api: FakePodApi, follower: Follower
) -> None:
    await api.stop()
    await follower.until(lambda: follower.breaks["unreachable"] >= 2)
    assert follower.states == {"a": "ready", "b": "ready"}
    assert follower.source.stale_seconds > 0
    api.pods.pop("a")
    api.watched.clear()
    await api.start()
    await follower.until(lambda: follower.states == {"b": "ready"})
    await asyncio.wait_for(api.watched.wait(), 60)


async def test_a_refusal_is_told_with_its_fix_and_tried_again(
    api: FakePodApi, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    api.answer = (403, {})
    api.end_watches()
    await follower.until(lambda: follower.breaks["refused"] >= 2)
    told = [record.message for record in caplog.records if "allowed to get, list and watch pods" in record.message]
    assert len(told) == 1
    api.answer = None
    api.pods.pop("a")
    await follower.until(lambda: follower.states == {"b": "ready"})


async def test_a_throttling_server_is_left_alone_for_as_long_as_it_says(
    api: FakePodApi, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    rest = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        api.answer = None
        await rest(0)

    monkeypatch.setattr("paceline_worker.router.fleet_kubernetes.asyncio.sleep", note)
    api.answer = (429, {"Retry-After": "7"})
    api.watched.clear()
    api.end_watches()
    await asyncio.wait_for(api.watched.wait(), 60)
    assert pauses == [7.0]
    assert follower.breaks == {"throttled": 1}


async def test_a_renewed_token_is_used_for_the_next_request(
    api: FakePodApi, follower: Follower, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("second\n")
    api.watched.clear()
    api.end_watches()
    await asyncio.wait_for(api.watched.wait(), 60)
    assert api.tokens[-1] == "Bearer second"


async def test_a_long_list_comes_in_pages(api: FakePodApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    api.page_size = 3
    api.put(*(pod(f"e{number}") for number in range(8)))
    found = PodApi(PodSelection(f"http://127.0.0.1:{api.port}", "default", SELECTOR, tmp_path))
    pods, version = await found.list_all()
    await found.close()
    assert (len(pods), api.lists, version) == (8, 3, str(api.version))


def test_a_pod_without_service_account_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="automountServiceAccountToken: true"):
        require_account(PodSelection("https://x", "default", SELECTOR, tmp_path))


FLAGS = ["--port", "1", "--admin-port", "2", "--fleet-source", "kubernetes"]
ENVIRONMENT = {"PACELINE_ROUTER_CONFIG": wire.encode(config()).decode()}
IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


def test_the_api_server_and_the_namespace_come_from_the_pod() -> None:
    pods = read([*FLAGS, "--fleet-selector", SELECTOR], ENVIRONMENT | IN_CLUSTER).pods
    assert pods is not None
    assert (pods.server, pods.namespace, pods.selector) == ("https://10.0.0.1:6443", config().namespace, SELECTOR)


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (FLAGS, IN_CLUSTER, "--fleet-selector: missing; --fleet-source kubernetes needs it"),
        ([*FLAGS, "--fleet-selector", SELECTOR], {}, "KUBERNETES_SERVICE_HOST is not set"),
        (FLAGS[:4], {}, "--fleet-file: missing; --fleet-source file needs it"),
    ],
)
def test_a_source_that_lacks_something_says_what(flags: list[str], environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(flags, ENVIRONMENT | environment)
