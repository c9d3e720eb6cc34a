"""What a tenant uses is counted once, and its limits hold."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from paceline.clock import VirtualClock
from paceline_worker.router.parse import Rules
from paceline_worker.router.tenants.accounts import Account, OverLimit, TenantVisit, Usage
from paceline_worker.router.tenants.terms import Terms

RULES = Rules(frozenset({"m"}), frozenset(), None)


@dataclass
class Bench:
    clock: VirtualClock
    account: Account

    @property
    def usage(self) -> Usage:
        return self.account.usage

    def visit(self, *, cached: int = 0, uncached: int = 10, output: int = 10) -> TenantVisit:
        visit = TenantVisit(self.account)
        visit.begin()
        visit.expect(cached=cached, uncached=uncached, output=output)
        visit.placed()
        return visit

    def refused(self, uncached: int) -> int | None:
        visit = TenantVisit(self.account)
        visit.begin()
        try:
            with pytest.raises(OverLimit) as caught:
                visit.expect(cached=0, uncached=uncached, output=0)
        finally:
            visit.end("limited")
        return caught.value.retry_after


def bench(*, max_running: int | None = None, tokens_per_minute: int | None = None) -> Bench:
    clock = VirtualClock()
    account = Account(
        "a", Terms(reasoning_tokens=None), RULES, b"", Usage(), clock, max_running=max_running,
        tokens_per_minute=tokens_per_minute,
    )  # fmt: skip
    return Bench(clock, account)


def test_tokens_are_counted_by_what_was_used() -> None:
    one = bench()
    visit = one.visit(cached=100, uncached=20, output=50)
    visit.said(7)
    visit.end("ok")
    assert (one.usage.cached_tokens, one.usage.uncached_tokens, one.usage.output_tokens) == (100, 20, 7)
    assert one.usage.outcomes == {"ok": 1}
    assert one.usage.running == one.account.running == 0


@pytest.mark.parametrize("outcome", ["rejected", "upstream_error", "internal_error", "client_error"])
def test_what_was_not_served_is_not_charged(outcome: str) -> None:
    one = bench(tokens_per_minute=600)
    one.visit(uncached=500, output=0).end(outcome)
    assert one.usage.uncached_tokens == 0
    one.visit(uncached=600, output=0)


def test_a_request_that_its_client_gave_up_in_the_queue_is_not_charged() -> None:
    one = bench(tokens_per_minute=600)
    visit = TenantVisit(one.account)
    visit.begin()
    visit.expect(cached=0, uncached=500, output=0)
    visit.end("cancelled")
    assert one.usage.uncached_tokens == 0
    one.visit(uncached=600, output=0)


def test_a_client_that_leaves_in_the_middle_pays_for_what_it_got() -> None:
    @dataclass
    class Stream:
        tokens: int = 0

    one, stream = bench(), Stream()
    visit = one.visit()
    visit.follow(stream)
    stream.tokens = 33
    visit.end("cancelled")
    assert one.usage.output_tokens == 33


def test_requests_beyond_the_limit_are_refused_until_one_ends() -> None:
    one = bench(max_running=2)
    first, _ = one.visit(), one.visit()
    third = TenantVisit(one.account)
    with pytest.raises(OverLimit) as caught:
        third.begin()
    third.end("limited")
    assert (caught.value.status, caught.value.reason) == (429, "")
    assert caught.value.retry_after is not None
    assert one.account.running == 2
    first.end("ok")
    one.visit()
    assert one.usage.limited == {"requests": 1}


def test_tokens_beyond_the_limit_are_refused_and_the_time_told_is_true() -> None:
    one = bench(tokens_per_minute=600)
    one.visit(uncached=600, output=0).end("ok")
    seconds = one.refused(50)
    assert seconds == 5
    one.clock.advance(4)
    assert one.refused(50) == 1
    one.clock.advance(1)
    one.visit(uncached=50, output=0)
    assert one.usage.limited == {"tokens": 2}


def test_an_answer_shorter_than_expected_gives_its_tokens_back() -> None:
    one = bench(tokens_per_minute=600)
    visit = one.visit(uncached=100, output=500)
    assert one.refused(100) is not None
    visit.said(10)
    visit.end("ok")
    one.visit(uncached=490, output=0)


def test_an_answer_longer_than_expected_is_charged_too() -> None:
    one = bench(tokens_per_minute=600)
    visit = one.visit(uncached=100, output=500)
    visit.said(1100)
    visit.end("ok")
    assert one.refused(1) == 61


def test_without_limits_nothing_is_refused() -> None:
    one = bench()
    for _ in range(100):
        one.visit(uncached=10**9)
