from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from paceline.api.conditions import LONGEST_MESSAGE, ConditionType, Finding, Reason, merge
from paceline.api.v1alpha1 import Condition, ConditionStatus, ModelDeploymentStatus

EARLIER = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 13, tzinfo=UTC)

findings = st.builds(
    Finding,
    type=st.sampled_from(ConditionType),
    status=st.sampled_from(ConditionStatus),
    reason=st.sampled_from(Reason),
    message=st.text(max_size=20),
)


def ready(status: ConditionStatus, message: str = "") -> Finding:
    return Finding(ConditionType.READY, status, Reason.AS_DESIRED, message)


def named(conditions: tuple[Condition, ...], kind: ConditionType) -> Condition:
    (found,) = [condition for condition in conditions if condition.type == kind.value]
    return found


def test_the_first_visit_sets_every_condition() -> None:
    conditions = merge((), [ready(ConditionStatus.TRUE)], now=EARLIER, generation=1)
    assert [condition.type for condition in conditions] == [kind.value for kind in ConditionType]
    assert named(conditions, ConditionType.READY).status is ConditionStatus.TRUE
    unknown = named(conditions, ConditionType.METRICS_AVAILABLE)
    assert (unknown.status, unknown.reason) == (ConditionStatus.UNKNOWN, "NotObservedYet")


def test_the_transition_time_stays_while_the_status_stays() -> None:
    before = merge((), [ready(ConditionStatus.TRUE)], now=EARLIER, generation=1)
    after = named(
        merge(before, [ready(ConditionStatus.TRUE, "new words")], now=LATER, generation=2), ConditionType.READY
    )
    assert after.last_transition_time == EARLIER
    assert (after.message, after.observed_generation) == ("new words", 2)


def test_the_transition_time_moves_with_the_status() -> None:
    before = merge((), [ready(ConditionStatus.TRUE)], now=EARLIER, generation=1)
    after = merge(before, [ready(ConditionStatus.FALSE)], now=LATER, generation=1)
    assert named(after, ConditionType.READY).last_transition_time == LATER


def test_a_condition_without_a_new_finding_keeps_the_generation_that_it_was_found_on() -> None:
    before = merge((), [ready(ConditionStatus.TRUE)], now=EARLIER, generation=1)
    after = merge(before, [], now=LATER, generation=2)
    assert after == before


def test_conditions_of_others_stay_at_the_end() -> None:
    foreign = Condition(
        type="Audited",
        status=ConditionStatus.TRUE,
        reason="ByHand",
        last_transition_time=EARLIER,
        observed_generation=1,
    )
    assert merge([foreign], [], now=LATER, generation=2)[-1] == foreign


def test_a_message_that_is_too_long_is_cut_rather_than_refused_by_the_server() -> None:
    long = merge((), [ready(ConditionStatus.FALSE, "x" * 10_000)], now=EARLIER, generation=1)
    assert len(named(long, ConditionType.READY).message) == LONGEST_MESSAGE


@given(st.lists(findings, max_size=20), st.lists(findings, max_size=20))
def test_merging_the_same_findings_again_changes_nothing(first: list[Finding], second: list[Finding]) -> None:
    before = merge((), first, now=EARLIER, generation=1)
    once = merge(before, second, now=LATER, generation=2)
    last = {finding.type: finding for finding in second}.values()
    assert merge(once, last, now=datetime(2027, 1, 1, tzinfo=UTC), generation=2) == once
    assert len({condition.type for condition in once}) == len(once)


def test_conditions_fit_into_the_status() -> None:
    conditions = merge((), [], now=EARLIER, generation=1)
    status = ModelDeploymentStatus(conditions=conditions, observed_generation=1)
    assert status.model_dump(mode="json", exclude_none=True)["conditions"][0]["lastTransitionTime"].startswith(
        "2026-01-01"
    )
