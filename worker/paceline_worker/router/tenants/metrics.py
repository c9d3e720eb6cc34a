"""What tenants used, for Prometheus. Only routers that have tenants have these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline_worker.router.metrics import PREFIX
from paceline_worker.router.tenants.allowance import LIMITS
from paceline_worker.router.tenants.door import MOST_SHOWN, OTHERS, Door


class TenantMetrics(Collector):
    """Reads the accounts when somebody asks."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        requests = _counter("tenant_requests", "Requests of tenants by outcome.", "outcome")
        limited = _counter("tenant_limited", "Requests that were refused because of a tenant's own limit.", "limit")
        prompts = _counter("tenant_prompt_tokens", "Prompt tokens of tenants by whether an engine held them.", "kind")
        outputs = _counter("tenant_output_tokens", "Output tokens of tenants.")
        running = _gauge("tenant_running_requests", "Requests of tenants in the router, waiting ones among them.")
        for label, usage in self._door.usage.items():
            for outcome, count in usage.outcomes.items():
                requests.add_metric((label, outcome), count)
            for limit in ("requests", *LIMITS):
                limited.add_metric((label, limit), usage.limited[limit])
            prompts.add_metric((label, "cached"), usage.cached_tokens)
            prompts.add_metric((label, "uncached"), usage.uncached_tokens)
            outputs.add_metric((label,), usage.output_tokens)
            running.add_metric((label,), usage.running)
        yield from (requests, limited, prompts, outputs, running, *self._of_accounts())

    def _of_accounts(self) -> Iterator[Metric]:
        quota = _gauge("tenant_quota_tokens", "Tokens a minute that a tenant may use at this router.", "limit")
        left = _gauge("tenant_quota_left_tokens", "What is left of them now; less than 0: used in advance.", "limit")
        keys = _gauge("tenant_keys", "API keys in force; a tenant without one is kept out.")
        counts = dict.fromkeys(self._door.usage, 0)
        held = self._door.keys.counts
        for number, account in enumerate(self._door.accounts.values()):
            shown = number < MOST_SHOWN
            counts[account.name if shown else OTHERS] += held[account.name]
            for limit, tokens in account.allowance.quotas.items() if shown else ():
                quota.add_metric((account.name, limit), tokens.per_minute)
                left.add_metric((account.name, limit), tokens.level(account.now()))
        for label, count in counts.items():
            keys.add_metric((label,), count)
        yield from (quota, left, keys)
        changes = CounterMetricFamily(PREFIX + "tenant_key_changes", "Times that a tenant's keys were read anew.")
        changes.add_metric((), self._door.keys.changes)
        yield changes


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=("tenant", *labels))


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=("tenant", *labels))
