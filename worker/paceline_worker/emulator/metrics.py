"""vLLM's metrics: the same names, types, labels and buckets, counted by the engine loop and rendered on request.

Plain numbers instead of a client library: several processes share a laptop, and a token must cost microseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

LATENCY: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
ITERATION: Final = tuple(float(n) for n in (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384))
SMALL_COUNTS: Final = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTIONS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
TRANSFER: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)
TRANSFER_BYTES: Final = tuple(2.0 ** (10 + i) for i in range(1, 25, 2))

FINISH_REASONS: Final = ("stop", "length", "abort", "error", "repetition")
PROMPT_SOURCES: Final = ("local_compute", "local_cache_hit", "external_kv_transfer")
CACHE_TIERS: Final = ("device", "host", "p2p", "disk", "external_unspecified")


def token_buckets(largest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to ``largest``."""
    series = (mantissa * 10.0**exponent for exponent in range(12) for mantissa in (1, 2, 5))
    return tuple(value for value in series if value <= largest)


class Histogram:
    """Counts per bucket."""

    __slots__ = ("bounds", "buckets", "count", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.count = 0
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add a value, ``times`` over."""
        self.buckets[bisect_left(self.bounds, value)] += times
        self.count += times
        self.total += value * times


class Metrics:
    """Everything that one engine counts. Public attributes are counters and histograms; gauges come when rendering."""

    def __init__(self, model: str, max_model_len: int) -> None:
        self._labels = f'engine="0",model_name="{_escape(model)}"'
        tokens = token_buckets(max_model_len)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.cache_queries = self.cache_hits = 0
        self.external_queries = self.external_hits = 0
        self.prompt_tokens_by_source = dict.fromkeys(PROMPT_SOURCES, 0)
        self.cached_by_tier = dict.fromkeys(CACHE_TIERS, 0)
        self.finished = dict.fromkeys(FINISH_REASONS, 0)
        self.failed_transfers = 0
        self.expired_transfers = 0
        self.lag_seconds = 0.0
        """By how much this process fell behind its modelled time; a busy machine, not a busy engine."""
        self.time_to_first_token = Histogram(FIRST_TOKEN)
        self.inter_token = Histogram(INTER_TOKEN)
        self.time_per_output_token = Histogram(INTER_TOKEN)
        self.end_to_end = Histogram(LATENCY)
        self.queue_time = Histogram(LATENCY)
        self.inference_time = Histogram(LATENCY)
        self.prefill_time = Histogram(LATENCY)
        self.decode_time = Histogram(LATENCY)
        self.request_prompt_tokens = Histogram(tokens)
        self.request_generation_tokens = Histogram(tokens)
        self.request_computed_tokens = Histogram(tokens)
        self.request_max_tokens = Histogram(tokens)
        self.request_choices = Histogram(SMALL_COUNTS)
        self.request_preemptions = Histogram(PREEMPTIONS)
        self.iteration_tokens = Histogram(ITERATION)
        self.transfer_time = Histogram(TRANSFER)
        self.transfer_bytes = Histogram(TRANSFER_BYTES)

    def count_expired(self) -> None:
        """Nobody fetched the blocks of a request in time."""
        self.expired_transfers += 1

    def render(
        self, *, gauges: dict[str, float], waiting: dict[str, int], cache_config: dict[str, str], own: dict[str, float]
    ) -> bytes:
        """Prometheus' text format.

        ``gauges`` by name after ``vllm:``, ``waiting`` requests by reason, ``own`` by name after
        ``paceline_emulator_``.
        """
        out: list[str] = []
        for name, value in gauges.items():
            self._one(out, name, "gauge", _GAUGES[name], value)
        self._labelled(out, "num_requests_waiting_by_reason", "gauge", "Waiting requests by reason.", "reason", waiting)
        info = ",".join(f'{key}="{_escape(value)}"' for key, value in sorted(cache_config.items()))
        _head(out, "vllm:cache_config_info", "gauge", "Size and settings of the KV cache.")
        out.append(f"vllm:cache_config_info{{{info}}} 1.0")
        for name, help_text, value in self._counters():
            self._one(out, f"{name}_total", "counter", help_text, value)
        for name, label, help_text, values in self._labelled_counters():
            self._labelled(out, f"{name}_total", "counter", help_text, label, values)
        for name, help_text, histogram in self._histograms():
            self._histogram(out, name, help_text, histogram)
        _head(out, "paceline_emulator_lag_seconds_total", "counter", "Seconds this process fell behind modelled time.")
        out.append(f"paceline_emulator_lag_seconds_total {self.lag_seconds!r}")
        for name, value in own.items():
            _head(out, f"paceline_emulator_{name}", "gauge", _OWN[name])
            out.append(f"paceline_emulator_{name} {float(value)!r}")
        out.append("")
        return "\n".join(out).encode()

    def _counters(self) -> tuple[tuple[str, str, float], ...]:
        cached = self.prompt_tokens - self.prompt_tokens_by_source["local_compute"]
        return (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", self.cache_queries),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", self.cache_hits),
            ("external_prefix_cache_queries", "Prompt tokens asked of other engines and tiers.", self.external_queries),
            ("external_prefix_cache_hits", "Prompt tokens that other engines and tiers gave.", self.external_hits),
            ("num_preemptions", "Requests pushed out of the batch to be computed again.", self.preemptions),
            ("prompt_tokens", "Prompt tokens processed.", self.prompt_tokens),
            ("prompt_tokens_cached", "Prompt tokens that were not computed here.", cached),
            ("generation_tokens", "Tokens generated.", self.generation_tokens),
            ("nixl_num_failed_transfers", "KV transfers that failed.", self.failed_transfers),
            ("nixl_num_kv_expired_reqs", "Requests whose blocks nobody fetched in time.", self.expired_transfers),
        )

    def _labelled_counters(self) -> tuple[tuple[str, str, str, dict[str, int]], ...]:
        return (
            (
                "prompt_tokens_by_source",
                "source",
                "Prompt tokens by where they came from.",
                self.prompt_tokens_by_source,
            ),
            ("prompt_tokens_cached_by_source", "source", "Cached prompt tokens by tier.", self.cached_by_tier),
            ("request_success", "finished_reason", "Finished requests by reason.", self.finished),
        )

    def _histograms(self) -> tuple[tuple[str, str, Histogram], ...]:
        return (
            ("time_to_first_token_seconds", "Seconds to the first token.", self.time_to_first_token),
            ("inter_token_latency_seconds", "Seconds between tokens.", self.inter_token),
            ("request_time_per_output_token_seconds", "A request's mean ITL.", self.time_per_output_token),
            ("e2e_request_latency_seconds", "Seconds from arrival to the last token.", self.end_to_end),
            ("request_queue_time_seconds", "Seconds in the queue.", self.queue_time),
            ("request_inference_time_seconds", "Seconds in the batch.", self.inference_time),
            ("request_prefill_time_seconds", "Seconds from the batch to the first token.", self.prefill_time),
            ("request_decode_time_seconds", "Seconds from the first to the last token.", self.decode_time),
            ("request_num_preemptions", "Preemptions of a request.", self.request_preemptions),
            ("request_prefill_kv_computed_tokens", "Prompt tokens computed here.", self.request_computed_tokens),
            ("request_prompt_tokens", "Prompt tokens of a request.", self.request_prompt_tokens),
            ("request_generation_tokens", "Output tokens of a request.", self.request_generation_tokens),
            ("request_params_max_tokens", "max_tokens of a request.", self.request_max_tokens),
            ("request_params_n", "n of a request.", self.request_choices),
            ("iteration_tokens_total", "Tokens of one step.", self.iteration_tokens),
            ("nixl_xfer_time_seconds", "Seconds of a KV transfer.", self.transfer_time),
            ("nixl_bytes_transferred", "Bytes of a KV transfer.", self.transfer_bytes),
        )

    def _one(self, out: list[str], name: str, kind: str, help_text: str, value: float) -> None:
        _head(out, f"vllm:{name}", kind, help_text)
        out.append(f"vllm:{name}{{{self._labels}}} {float(value)!r}")

    def _labelled(
        self, out: list[str], name: str, kind: str, help_text: str, label: str, values: dict[str, int]
    ) -> None:
        _head(out, f"vllm:{name}", kind, help_text)
        out += [f'vllm:{name}{{{self._labels},{label}="{key}"}} {float(value)!r}' for key, value in values.items()]

    def _histogram(self, out: list[str], name: str, help_text: str, histogram: Histogram) -> None:
        _head(out, f"vllm:{name}", "histogram", help_text)
        reached = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.buckets, strict=True):
            reached += count
            text = "+Inf" if bound == float("inf") else repr(bound)
            out.append(f'vllm:{name}_bucket{{{self._labels},le="{text}"}} {float(reached)!r}')
        out.append(f"vllm:{name}_count{{{self._labels}}} {float(histogram.count)!r}")
        out.append(f"vllm:{name}_sum{{{self._labels}}} {histogram.total!r}")


_OWN: Final = {
    "held_requests": "Finished prompts that are kept for other engines.",
    "cached_blocks": "KV blocks on the accelerator whose content can be reused.",
    "host_blocks": "KV blocks in the host tier.",
    "replay_bytes": "Cache events kept for replay.",
}
_GAUGES: Final = {
    "num_requests_running": "Requests in the batch.",
    "num_requests_waiting": "Requests that wait.",
    "kv_cache_usage_perc": "Share of KV blocks in use, 0 to 1.",
}


def _head(out: list[str], name: str, kind: str, help_text: str) -> None:
    out.append(f"# HELP {name} {help_text}")
    out.append(f"# TYPE {name} {kind}")


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
