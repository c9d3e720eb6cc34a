"""What a tenant uses is counted once, and its limits hold."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from paceline.api import wire
from paceline.clock import VirtualClock
from paceline_worker.router.parse import Rules
from paceline_worker.router.tenants.accounts import Account, OverLimit, TenantVisit, Usage
from paceline_worker.router.tenants.allowance import Allowance
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

    def refused(self, uncached: int, output: int = 0) -> int | None:
        visit = TenantVisit(self.account)
        visit.begin()
        try:
            with pytest.raises(OverLimit) as caught:
                visit.expect(cached=0, uncached=uncached, output=output)
        finally:
            visit.end("limited")
        return caught.value.retry_after


def bench(*, max_running: int | None = None, **limits: int) -> Bench:
    clock = VirtualClock()
    allowance = Allowance(wire.Tenant(name="a", **limits), clock.monotonic())
    account = Account(
        "a", Terms(reasoning_tokens=None), RULES, b"", Usage(), clock, max_running=max_running,
        allowance=allowance,
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
    assert (caught.value.status, caught.value.reason) == (429, None)
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


def test_input_and_output_have_limits_of_their_own() -> None:
    one = bench(input_tokens_per_minute=600, output_tokens_per_minute=60)
    one.visit(uncached=600, output=0)
    assert one.refused(uncached=10, output=0) == 1
    one.visit(uncached=0, output=60)
    assert one.refused(uncached=0, output=10) == 10
    assert one.usage.limited == {"input_tokens": 1, "output_tokens": 1}
    one.clock.advance(10)
    one.visit(uncached=100, output=10)


def test_the_limit_that_lasts_longest_is_the_one_that_is_told() -> None:
    one = bench(tokens_per_minute=6000, input_tokens_per_minute=600, output_tokens_per_minute=60)
    one.visit(uncached=600, output=60)
    visit = TenantVisit(one.account)
    visit.begin()
    with pytest.raises(OverLimit, match="about 30 output tokens, and you have 0 left of 60 a minute") as caught:
        visit.expect(cached=0, uncached=10, output=30)
    assert caught.value.retry_after == 30


def test_what_an_answer_did_not_use_is_given_back_to_each_limit() -> None:
    one = bench(tokens_per_minute=1000, output_tokens_per_minute=500)
    visit = one.visit(uncached=100, output=500)
    visit.said(10)
    visit.end("ok")
    one.visit(uncached=400, output=490)


def test_a_refused_request_takes_nothing_from_the_other_limits() -> None:
    one = bench(input_tokens_per_minute=600, output_tokens_per_minute=60)
    assert one.visit(uncached=0, output=60) is not None
    assert one.refused(uncached=600, output=1) == 1
    one.visit(uncached=600, output=0)


def test_without_limits_nothing_is_refused() -> None:
    one = bench()
    for _ in range(100):
        one.visit(uncached=10**9)
