"""What is wrong with a deployment, and where to look next: for whoever reads ``paceline status`` at night. Pure.

One entry a reason of the conditions that asks for somebody to act. A test holds that every reason that the operator
warns of has one, and that every page named exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from paceline.api import labels
from paceline.api.conditions import Reason
from paceline.cli.cluster import Json
from paceline.cli.engines import EngineLine
from paceline.cli.words import duration

RUNBOOKS: Final = "docs/operations/runbooks"
CONDITIONS_PAGE: Final = "docs/reference/conditions.md"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a reason. Commands may name ``{namespace}``, ``{name}`` and ``{pod}``."""

    step: str
    command: str
    page: str


class Problem(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that is not as it should be."""

    what: str
    reason: str
    seconds: float | None
    """For how long the condition that says so has been as it is; None where none says it."""
    next: str
    command: str
    page: str
    """Where it is written up, in the project's documentation."""


_DESCRIBE_POD: Final = "kubectl describe pod -n {namespace} {pod}"
_LOGS: Final = "kubectl logs -n {namespace} {pod} --previous --tail=50"
_EXPLAIN: Final = "paceline explain -n {namespace} {name}"
_EDIT: Final = "kubectl edit modeldeployment -n {namespace} {name}"
_NAME_MODEL: Final = f"kubectl annotate modeldeployment -n {{namespace}} {{name}} {labels.ENGINE_PROFILE}=PROFILE"
_CHECK: Final = "paceline check"
_START: Final = f"{RUNBOOKS}/stuck-start.md"
_OPERATOR: Final = f"{RUNBOOKS}/operator.md"
_BLIND: Final = "docs/operations/degraded-sight.md"

ADVICE: Final[dict[Reason, Advice]] = {
    Reason.INVALID_SPEC: Advice("Correct the field that the message names.", _EDIT, CONDITIONS_PAGE),
    Reason.CHILD_REFUSED: Advice(
        "Correct what the API server refuses, most often engine.podTemplate.", _EDIT, CONDITIONS_PAGE
    ),
    Reason.UNSCHEDULABLE: Advice(
        "Find a node with room and the right accelerator, or ask for less.", _DESCRIBE_POD, _START
    ),
    Reason.IMAGE_PULL_FAILED: Advice(
        "Correct the image's name, or give its registry's credentials.", _DESCRIBE_POD, _START
    ),
    Reason.CRASHING: Advice("Read how the engine ended.", _LOGS, _START),
    Reason.GPU_ERROR: Advice(
        "Look for Xid messages on the engine's node; drain the node if they come again.",
        _LOGS,
        f"{RUNBOOKS}/gpu-error.md",
    ),
    Reason.ENGINE_STANDS_OUT: Advice(
        "Ask that engine what you know the answer to; restart it if it is not well.",
        "kubectl logs -n {namespace} {pod} --tail=50",
        f"{RUNBOOKS}/output-health.md",
    ),
    Reason.PODS_REFUSED: Advice("Read what refuses the pods.", "kubectl get events -n {namespace}", _START),
    Reason.QUOTA_EXCEEDED: Advice(
        "Raise the namespace's quota, or ask for fewer engines.",
        "kubectl describe resourcequota -n {namespace}",
        _START,
    ),
    Reason.START_DEADLINE_EXCEEDED: Advice(
        "Read what the engine does instead of getting ready.", "kubectl logs -n {namespace} {pod} --tail=50", _START
    ),
    Reason.ROLLOUT_STALLED: Advice(
        "Read why new engines don't start; change the spec back to end the roll-out.", _DESCRIBE_POD, _START
    ),
    Reason.KIND_MISSING: Advice(
        "Install the kind that the message names, or do without.", "kubectl api-resources", CONDITIONS_PAGE
    ),
    Reason.FORBIDDEN: Advice("Give the operator's ClusterRole the right that it lacks.", _CHECK, _OPERATOR),
    Reason.API_SERVER_TROUBLE: Advice(
        "See whether the API server is well.", "kubectl get --raw /readyz?verbose", _OPERATOR
    ),
    Reason.GPU_BUDGET_REACHED: Advice(
        "Raise scaling.gpuBudget, or accept what it allows.", _EXPLAIN, f"{RUNBOOKS}/slo-burn.md"
    ),
    Reason.MAX_REPLICAS_REACHED: Advice(
        "Raise maxReplicas of the pool, or accept what it allows.", _EXPLAIN, f"{RUNBOOKS}/slo-burn.md"
    ),
    Reason.OBJECTIVE_INFEASIBLE: Advice(
        "More engines don't help: change the objective or the hardware.", _EXPLAIN, f"{RUNBOOKS}/feasibility-ceiling.md"
    ),
    Reason.DRAIN_DEADLINE_EXCEEDED: Advice(
        "Raise engine.drainSeconds if answers may take longer.", _EXPLAIN, CONDITIONS_PAGE
    ),
    Reason.METRICS_MISSING: Advice("See what the planner can't see.", _EXPLAIN, _BLIND),
    Reason.METRICS_UNREACHABLE: Advice("See what the planner can't reach.", _EXPLAIN, _BLIND),
    Reason.METRICS_STALE: Advice("See whose metrics have stopped.", _EXPLAIN, _BLIND),
    Reason.METRICS_INVALID: Advice("See which metrics can't be right.", _EXPLAIN, _BLIND),
    Reason.CLOCK_SKEW: Advice("Set the clocks: Prometheus's and the operator's differ.", _EXPLAIN, _BLIND),
    Reason.ENGINE_MODEL_MISSING: Advice("Name the engine model that comes nearest.", _NAME_MODEL, _BLIND),
}
OPERATOR_SILENT: Final = "OperatorSilent"
NOT_SEEN: Final = "SpecNotSeen"
RESTARTING: Final = "EngineRestarted"


def problems_of(
    resource: Json,
    conditions: Iterable[tuple[str, str, str, str, float | None]],
    pods: Sequence[EngineLine],
    *,
    silent_seconds: float | None,
) -> tuple[Problem, ...]:
    """Everything that asks for somebody to act, each reason once. ``conditions``: type, status, reason, message and
    age.
    """
    metadata = resource["metadata"]
    stuck = next((one.pod for one in pods if one.state == "stuck"), None)
    slow = next((one.pod for one in pods if one.state in {"starting", "failed"}), None)
    names = {"namespace": metadata["namespace"], "name": metadata["name"], "pod": stuck or slow or "POD"}
    found: dict[str, Problem] = {}
    if silent_seconds is not None:
        what = f"No operator has said for {duration(silent_seconds)} that it lives: what stands here may be old."
        found[OPERATOR_SILENT] = Problem(
            what, OPERATOR_SILENT, None, "See whether an operator runs.", _CHECK, _OPERATOR
        )
    seen, generation = (resource.get("status") or {}).get("observedGeneration"), metadata.get("generation")
    if seen != generation and OPERATOR_SILENT not in found:
        what = f"The operator has not seen the last change of the spec (generation {generation}, seen: {seen})."
        found[NOT_SEEN] = Problem(
            what, NOT_SEEN, None, "Wait a moment; if it stays, see whether an operator runs.", _CHECK, _OPERATOR
        )
    conditions = tuple(conditions)
    ready = any((kind, status) == ("Ready", "True") for kind, status, *_ in conditions)
    for kind, status, reason, message, seconds in conditions:
        if _is_fine(kind, status) or reason not in set(Reason) or reason in found:
            continue
        if ready and reason == Reason.KIND_MISSING:
            continue  # such as PodMonitor: many clusters do well without
        advice = ADVICE.get(Reason(reason))
        if advice is not None:
            what = message or f"{kind} is {status}: {reason}."
            command = advice.command.format(**names)
            found[reason] = Problem(what, reason, seconds, advice.step, command, advice.page)
    restarted = next((one for one in pods if one.restarts and one.state == "starting"), None)
    if restarted is not None and not found:
        command = _LOGS.format(**{**names, "pod": restarted.pod})
        what = f"{restarted.pod} was started again {restarted.restarts} times: {restarted.waits_for}."
        found[RESTARTING] = Problem(what, RESTARTING, None, ADVICE[Reason.CRASHING].step, command, _START)
    return tuple(found.values())


def _is_fine(kind: str, status: str) -> bool:
    """Whether a condition of that type and status says nothing bad. Progressing may say bad things either way."""
    if kind == "ScalingLimited":
        return status != "True"
    return kind != "Progressing" and status == "True"
