"""Traces of all formats: a file is read, row by row, or refused with an error that names it."""

from __future__ import annotations

import gzip
import io
import math
import random
import tarfile
from pathlib import Path
from typing import Final

from paceline.errors import ConfigError, TraceError
from paceline.traces.formats import READERS, SERVEGEN, read_trace
from tests.fuzz.documents import scratch
from tests.fuzz.inputs import mutated
from tests.fuzz.target import Found, Plain

_ROWS: Final = {
    "mooncake": b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
    b'{"input_length": 5, "output_length": 5, "hash_ids": [1], "session_id": "s", "timestamp": 5}\n'
    b'{"input_length": 5, "output_length": 5, "session_id": "s", "delay": 7}\n',
    "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    b"2023-11-16T18:15:50+00:00,396,109\n",
    "burstgpt": b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5,1,2,ChatGPT,472,18,490,Conversation log\n6.5,,2,GPT-4,1087,230,1317,API log\n",
    "bailian": b'{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 33, "output_length": 4, '
    b'"hash_ids": [1, 2, 3]}\n{"chat_id": 2, "parent_chat_id": 1, "timestamp": 1, "input_length": 16, '
    b'"output_length": 4, "hash_ids": [1]}\n',
    "sharegpt": b'{"input_toks": 3, "output_toks": 2, "arrival_time_ns": 1000, "input_tok_ids": [1, 2, 3]}\n',
    "paceline": b'{"arrivalSeconds": 0.1, "inputTokens": 600, "outputTokens": 2, "blocks": [1, 2], "session": "a"}\n',
}  # fmt: skip
_SERVEGEN: Final = {
    "chunk-0-trace.csv": b"0,0.5,1.2,Gamma,0.7,2.9\n600,0,0,Gamma,0,0\n1200,0.3,1,Weibull,1,3\n",
    "chunk-0-dataset.json": b'{"0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{5: 1.0}"}}',
}
_TOKENS: Final = (
    b",", b"\n", b'"', b"\0", b"-1", b"0", b"NaN", b"inf", b"-inf", b"1e308", b"1e309", b"9" * 30, b"\r", b"\xff",
    b"\xef\xbb\xbf", b"[]", b"{}", b"null", b"0001-01-01", b"9999-12-31T23:59:59.999999+14:00", b"\x1f\x8b", b":", b"{",
    b"}", b"Gamma", b"Weibull", b"1e-320", "²".encode(), b" ", b"true", b"_", b"1_0", b"session_id", b"delay",
    b',"x":' + b"[" * 1100,
)  # fmt: skip


class Traces(Plain):
    """One file; its first byte says the format, so that a reproducer holds everything."""

    name = "traces"
    share = 10

    def __init__(self) -> None:
        self._kinds = sorted(READERS)
        self._all = [_ROWS.get(kind, b"") for kind in self._kinds] + [*_SERVEGEN.values()]
        if missing := set(READERS) - set(_ROWS):
            raise Found(f"no rows to begin with for {missing}")

    def make(self, rng: random.Random) -> bytes:
        number = rng.randint(0, len(self._kinds))
        if number == len(self._kinds):
            data = _tar({name: mutated(rng, text, self._all, _TOKENS) if rng.random() < 0.7 else text
                         for name, text in _SERVEGEN.items()})  # fmt: skip
        else:
            data = mutated(rng, _ROWS[self._kinds[number]], self._all, _TOKENS)
            if rng.random() < 0.1:
                data = gzip.compress(data, 1)
        if rng.random() < 0.1:
            data = mutated(rng, data)
        return bytes([number]) + data

    def check(self, data: bytes) -> None:
        number, content = data[0] % (len(self._kinds) + 1), data[1:]
        kind = SERVEGEN if number == len(self._kinds) else self._kinds[number]
        path = Path(scratch()) / "trace"
        path.write_bytes(content)
        try:
            trace = read_trace(path, kind, minutes=10 if kind == SERVEGEN else None)
        except (TraceError, ConfigError) as error:
            if "trace" not in str(error):
                raise Found(f"a refusal does not name the file: {error}") from None
            return
        times = [request.arrival_seconds for request in trace.requests]
        if not times or not all(map(math.isfinite, times)) or times != sorted(times) or times[0] < 0:
            raise Found("arrivals are out of order, before the beginning, or no numbers")
        if min(min(request.input_tokens, request.output_tokens) for request in trace.requests) < 1:
            raise Found("a request without tokens")


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


TARGETS: Final = (Traces,)
