"""Latencies measured on real GPUs, as the report on the performance model reads them."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

from paceline.policy.scaling.hardware import find_gpu, find_model
from paceline.policy.scaling.physics import Engine, Layout, Precision

UTILISATION = 0.9
OVERHEAD_BYTES = 4 * 1024**3
LENGTH_SHARE = 0.9
"""The public benchmark draws lengths evenly from 80% to 100% of the nominal 1024 and 8192 tokens."""
_PRECISION = {
    "": Precision.BF16, "bf16": Precision.BF16, "fp8": Precision.FP8, "fp8_block": Precision.FP8,
    "nvfp4": Precision.FP4, "int4_wo": Precision.INT4,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measurement."""

    model: str
    gpu: str
    backend: str
    precision: str
    mode: str
    prompt: float
    output: float
    clients: int
    ttft: float
    tpot: float
    prefill: Engine
    decode: Engine
    prefill_workers: int
    decode_workers: int
    workers_known: bool

    @property
    def family(self) -> tuple[str, ...]:
        return self.model, self.gpu, self.backend, self.precision, self.mode

    @property
    def layout(self) -> tuple[Hashable, ...]:
        return (*self.family, self.prefill.layout, self.decode.layout, self.prefill_workers, self.decode_workers)

    @property
    def point(self) -> tuple[Hashable, ...]:
        return (*self.layout, self.prompt, self.output, self.clients)

    @property
    def kind(self) -> tuple[Hashable, ...]:
        return self.mode, self.backend, bool(self.decode.model.experts), self.precision == "bf16"

    @property
    def running(self) -> float:
        """Sequences in the batch of one decode worker: the clients, as far as the KV cache holds them."""
        room = self.decode.kv_capacity_tokens(utilisation=UTILISATION, overhead_bytes=OVERHEAD_BYTES)
        return min(self.clients / self.decode_workers, max(1.0, room / (self.prompt + 0.6 * self.output)))


def read_rows(path: Path) -> dict[Hashable, Row]:
    """Every distinct measurement of a model and a GPU that we know, by what was measured."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        lines = list(csv.DictReader(file))
    rows: dict[Hashable, Row] = {}
    for line in lines:
        row = _row(line)
        if row is not None:
            # The sources overlap: equal to the last digit is the same measurement under another label.
            rows.setdefault((row.model, line["silicon_ttft_ms"], line["silicon_tpot_ms"]), row)
    return rows


def _row(line: Mapping[str, str]) -> Row | None:
    def number(name: str) -> int:
        return int(line[name] or 0)

    model, gpu = find_model(line["model_path"].replace("V3.1", "V3")), find_gpu(line["system"].replace("_", " "))
    said = re.search(r"silicon_concurrency=(\d+)", line["silicon_data_source"])
    clients = int(said[1]) if said else number("batch_size") * max(1, number("attention_dp_size"))
    if model is None or gpu is None or not clients:
        return None
    apart = line["mode"] == "disagg"
    engines = []
    for prefix in ("prefill_", "decode_") if apart else ("", ""):
        layout = Layout(
            tensor=max(1, number(f"{prefix}tp_size")) * max(1, number(f"{prefix}pp_size")),
            data=max(1, number(f"{prefix}attention_dp_size")),
            expert_parallel=number(f"{prefix}moe_ep_size") > 1,
            precision=_PRECISION[line["gemm_quant_mode"]],
            expert_precision=_PRECISION[line["moe_quant_mode"]],
            kv_bytes=2 if _PRECISION[line["gemm_quant_mode"]] in (Precision.BF16, Precision.INT4) else 1,
        )
        engines.append(Engine(model, gpu, layout))
    share = LENGTH_SHARE if number("isl") in (1024, 8192) and number("osl") in (1024, 8192) else 1.0
    return Row(
        model=model.name,
        gpu=gpu.name,
        backend=line["backend"],
        precision=str(_PRECISION[line["gemm_quant_mode"]]),
        mode=line["mode"],
        prompt=share * number("isl"),
        output=share * number("osl"),
        clients=clients,
        ttft=float(line["silicon_ttft_ms"]) / 1000,
        tpot=float(line["silicon_tpot_ms"]) / 1000,
        prefill=engines[0],
        decode=engines[1],
        prefill_workers=max(1, number("prefill_num_workers")),
        decode_workers=max(1, number("decode_num_workers")),
        workers_known=not apart or bool(line["prefill_num_workers"] and line["decode_num_workers"]),
    )
