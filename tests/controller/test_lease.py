from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from paceline.clock import VirtualClock
from paceline.controller.kinds import LEASE
from paceline.controller.lease import NAME, LeaderLease
from paceline.controller.refusals import ApiError, NotLeader
from paceline.controller.writer import Writer
from tests.controller.fakes import FakeApi

PATH = LEASE.path("paceline-system", NAME)
SECONDS = 15


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(epoch=1_000_000)


@pytest.fixture
def replica(api: FakeApi, clock: VirtualClock) -> Callable[[str], LeaderLease]:
    def make(identity: str) -> LeaderLease:
        return LeaderLease(
            api,  # type: ignore[arg-type]
            namespace="paceline-system",
            identity=identity,
            duration_seconds=SECONDS,
            clock=clock,
            changed=lambda _: None,
        )

    return make


Make = Callable[[str], LeaderLease]


async def test_the_first_one_leads_and_the_second_one_waits(replica: Make) -> None:
    one, other = replica("one"), replica("other")
    await one._try()
    await other._try()
    assert (one.valid, other.valid) == (True, False)


async def test_a_leader_that_renews_stays_leader(replica: Make, clock: VirtualClock, api: FakeApi) -> None:
    one, other = replica("one"), replica("other")
    for _ in range(20):
        await one._try()
        await other._try()
        clock.advance(5)
    assert (one.valid, other.valid) == (True, False)
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 0


async def test_a_leader_stops_believing_before_another_one_can_start(replica: Make, clock: VirtualClock) -> None:
    one, other = replica("one"), replica("other")
    await one._try()
    believed_until, taken_at = None, None
    for tenth in range(300):
        await other._try()
        if believed_until is None and not one.valid:
            believed_until = tenth
        if taken_at is None and other.valid:
            taken_at = tenth
        assert not (one.valid and other.valid)
        clock.advance(0.1)
    assert believed_until is not None
    assert taken_at is not None
    assert believed_until < taken_at


async def test_a_leader_that_was_stopped_writes_nothing_when_it_wakes_up(
    replica: Make, clock: VirtualClock, api: FakeApi
) -> None:
    one, other = replica("one"), replica("other")
    writer = Writer(api, may_write=lambda: one.valid)  # type: ignore[arg-type]
    await one._try()
    await other._try()
    clock.advance(SECONDS + 1)  # the machine of ``one`` hangs
    await other._try()
    assert other.valid
    api.writes.clear()
    with pytest.raises(NotLeader):
        await writer.status("default", "small", {})
    assert api.writes == []
    await one._try()
    assert not one.valid


async def test_a_holder_that_lost_sight_of_its_own_lease_takes_it_again(replica: Make, clock: VirtualClock) -> None:
    one = replica("one")
    await one._try()
    clock.advance(SECONDS * 3)
    assert not one.valid
    await one._try()
    assert one.valid


async def test_a_lease_that_is_given_back_is_taken_at_once(replica: Make, api: FakeApi) -> None:
    one, other = replica("one"), replica("other")
    await one._try()
    await one.release()
    await other._try()
    assert (one.valid, other.valid) == (False, True)
    assert api.objects[PATH]["spec"]["holderIdentity"] == "other"
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 1


async def test_of_two_that_find_it_free_the_slower_one_does_not_get_it(
    replica: Make, clock: VirtualClock, api: FakeApi
) -> None:
    first, one, other = replica("first"), replica("one"), replica("other")
    await first._try()
    await one._try()
    await other._try()
    clock.advance(SECONDS)
    really = api.replace

    async def slow(path: str, body: dict[str, object], *, resource: str) -> dict[str, object]:
        api.replace = really  # type: ignore[method-assign]
        await other._try()
        return await really(path, body, resource=resource)

    api.replace = slow  # type: ignore[method-assign]
    await one._try()
    assert (one.valid, other.valid) == (False, True)


async def test_the_time_that_a_renewal_takes_counts_against_it(
    replica: Make, clock: VirtualClock, api: FakeApi
) -> None:
    one = replica("one")
    really = api.create

    async def slow(path: str, body: dict[str, object], *, resource: str) -> dict[str, object]:
        clock.advance(SECONDS)
        return await really(path, body, resource=resource)

    api.create = slow  # type: ignore[method-assign]
    await one._try()
    assert not one.valid


async def test_a_server_that_fails_does_not_end_the_election(api: FakeApi, clock: VirtualClock) -> None:
    changes: list[bool] = []
    led = asyncio.Event()

    def changed(leads: bool) -> None:
        changes.append(leads)
        led.set()

    one = LeaderLease(
        api,  # type: ignore[arg-type]
        namespace="paceline-system",
        identity="one",
        duration_seconds=SECONDS,
        clock=clock,
        changed=changed,
    )
    failures = iter([ApiError("get", "leases", 503, "", "away")])
    api.refusals.append(lambda *_: next(failures, None))
    one._duration = 0.06  # type: ignore[assignment]
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(60):
        await led.wait()
    task.cancel()
    assert changes == [True]
