"""Loads from ServeGen's client data: how often each of a service's clients calls, and with what lengths, over days.

For each client there are windows of 10 minutes with a rate and the distribution of the time between its requests
(Gamma or Weibull), and windows of 6 hours with the distributions of input and output lengths. Arrivals are drawn from
them, so this needs a random number generator and gives as much load as is asked for. Clients whose lengths are not
known are left out, and named.
"""

from __future__ import annotations

import csv
import math
import random
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.errors import ConfigError, TraceError
from paceline.traces.record import RowProblem, Trace, TraceRequest, in_order
from paceline.traces.rows import MAX_PROBLEMS, MAX_TOKENS

MAX_REQUESTS: Final = 20_000_000
"""A load that is larger, or expected to be, is refused: seventeen million requests take 3.8 GB to simulate,
and 7 GB where `static-best` is searched for, which keeps every run."""
LEAST_GAP: Final = 1e-4
"""Of the gap that a window's rate makes, at least so much by its shape and scale; 0.0009 in a published file."""
MAX_FILE_BYTES: Final = 64 << 20
MAX_CLIENTS: Final = 10_000
WINDOW_SECONDS: Final = 600.0
_TRACE: Final = "-trace.csv"
_LENGTHS: Final = "-dataset.json"
_FAMILIES: Final = ("Gamma", "Weibull")


class _LengthWindow(msgspec.Struct, frozen=True):
    input_tokens: str
    """A mapping from length to probability, written as in Python, which JSON can't express."""
    output_tokens: str


_Shares = dict[Annotated[int, Meta(ge=0, le=MAX_TOKENS)], Annotated[float, Meta(ge=0)]]


@dataclass(frozen=True, slots=True)
class _Lengths:
    """A distribution to draw from."""

    tokens: tuple[int, ...]
    cumulative: tuple[float, ...]

    def draw(self, rng: random.Random) -> int:
        """At least one token."""
        index = bisect_right(self.cumulative, rng.random() * self.cumulative[-1])
        return max(1, self.tokens[min(index, len(self.tokens) - 1)])


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """The calls of one client in one window."""

    start: float
    rate: float
    family: str
    shape: float
    scale: float


@dataclass(frozen=True, slots=True)
class _Client:
    name: str
    windows: tuple[_Arrivals, ...]
    length_starts: tuple[float, ...]
    lengths: tuple[tuple[_Lengths, _Lengths], ...]


class ServeGen:
    """The clients of one service. Made by :func:`read_servegen`."""

    def __init__(
        self, name: str, clients: tuple[_Client, ...], malformed: int, problems: tuple[RowProblem, ...]
    ) -> None:
        self._name = name
        self._clients = clients
        self._malformed = malformed
        self._problems = problems

    def generate(self, *, start_seconds: float, seconds: float, rate_scale: float, rng: random.Random) -> Trace:
        """Arrivals in ``[start, start + seconds)``, counted from the start, at ``rate_scale`` times the real rates.

        Raises ConfigError for a load that is too large, or empty.
        """
        end = start_seconds + seconds
        chosen = [
            (client, window, begin, until)
            for client in self._clients
            for window, begin, until in _within(client, start_seconds, end)
        ]
        expected = math.fsum(window.rate * (until - begin) for _, window, begin, until in chosen) * rate_scale
        if expected > MAX_REQUESTS:
            raise ConfigError(
                f"{self._name}: {expected:,.0f} requests are too many to simulate, at most {MAX_REQUESTS:,}; "
                f"choose a --rate-scale below {rate_scale * MAX_REQUESTS / expected:.2g} or fewer --minutes."
            )
        arrivals = (
            request
            for client, window, begin, until in chosen
            for request in _requests(client, window, begin, until, start_seconds, rate_scale, rng)
        )
        requests = list(islice(arrivals, MAX_REQUESTS + 1))
        if len(requests) > MAX_REQUESTS:
            raise ConfigError(
                f"{self._name}: the gaps between requests make more of them than the {expected:,.0f} of its rates, and "
                f"more than can be simulated, {MAX_REQUESTS:,}; choose a smaller --rate-scale or fewer --minutes."
            )
        if not requests:
            raise ConfigError(
                f"{self._name}: no request arrives in {seconds / 60:g} minutes from minute {start_seconds / 60:g} on; "
                "choose a larger --rate-scale or another window."
            )
        return Trace(self._name, in_order(requests), self._malformed, self._problems)


def read_servegen(path: Path) -> ServeGen:
    """Read a folder of ServeGen's, or a tar archive of one, with ``*-trace.csv`` and ``*-dataset.json`` files.

    Raises TraceError if there is no client in it whose rates and lengths are both known.
    """
    problems: list[RowProblem] = []
    malformed = 0
    rates: dict[str, tuple[_Arrivals, ...]] = {}
    lengths: dict[str, tuple[tuple[float, ...], tuple[tuple[_Lengths, _Lengths], ...]]] = {}

    def bad(line: int, reason: str) -> None:
        nonlocal malformed
        malformed += 1
        if len(problems) < MAX_PROBLEMS:
            problems.append(RowProblem(line, reason))

    for name, data in _files(path):
        if len(rates) > MAX_CLIENTS:
            raise TraceError(f"{path}: more than {MAX_CLIENTS:,} clients.")
        if name.endswith(_TRACE):
            rates[name.removesuffix(_TRACE)] = tuple(_windows(name, data, bad))
        else:
            try:
                lengths[name.removesuffix(_LENGTHS)] = _length_windows(data)
            except (ValueError, OverflowError, RecursionError) as error:  # a length without end is an OverflowError
                bad(1, f"of {name}: {error}")
    clients = []
    for name, windows in sorted(rates.items()):
        if name in lengths and lengths[name][0]:
            clients.append(_Client(name, windows, *lengths[name]))
        elif windows:
            bad(1, f"of {name}{_TRACE}: the lengths of this client's requests are not known, so it is left out")
    if not clients:
        first = f" ({problems[0]})" if problems else ""
        raise TraceError(f"{path}: there is no ServeGen client in it whose rates and lengths are known{first}.")
    return ServeGen(path.name, tuple(clients), malformed, tuple(problems))


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of everything that describes a client."""
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.name.endswith((_TRACE, _LENGTHS)) and file.is_file():
                    yield file.name, file.read_bytes()[:MAX_FILE_BYTES]
            return
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                content = archive.extractfile(member) if name.endswith((_TRACE, _LENGTHS)) else None
                if content is not None:
                    yield name, content.read(MAX_FILE_BYTES)
    except tarfile.ReadError:
        raise TraceError(
            f"{path}: this is neither a folder of ServeGen's nor a tar archive of one, or it is damaged."
        ) from None
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: can't read the trace: {reason}.") from None


def _windows(name: str, data: bytes, bad: Callable[[int, str], None]) -> Iterator[_Arrivals]:
    """Windows with requests in them: start, rate, coefficient of variation, family, shape, scale."""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        try:
            window = _window(next(csv.reader([line]), []))
        except (ValueError, IndexError, csv.Error):
            bad(number, f"of {name}: is not: start, rate, variation, {' or '.join(_FAMILIES)}, shape, scale")
            continue
        if window.rate > 0:
            yield window


def _window(row: list[str]) -> _Arrivals:
    """Raises ValueError or IndexError for a row that is not a window."""
    start, rate = float(row[0]), float(row[1])
    if not (start >= 0 and 0 <= rate < math.inf):
        raise ValueError
    if rate == 0:
        return _Arrivals(start, 0.0, "", 0.0, 0.0)
    shape, scale = float(row[4]), float(row[5])
    if row[3] not in _FAMILIES or not (0 < shape < math.inf and 0 < scale < math.inf):
        raise ValueError
    # The logarithm, as the gamma function itself overflows for heavy tails.
    mean = math.log(scale) + (math.log(shape) if row[3] == "Gamma" else math.lgamma(1 + 1 / shape))
    if mean + math.log(rate) < math.log(LEAST_GAP):
        raise ValueError("requests without end")
    return _Arrivals(start, rate, row[3], shape, scale)


def _length_windows(data: bytes) -> tuple[tuple[float, ...], tuple[tuple[_Lengths, _Lengths], ...]]:
    """Starts of the windows whose lengths are known, and the lengths. Raises ValueError."""
    windows = msgspec.json.decode(data, type=dict[str, _LengthWindow])
    known = []
    for start, window in windows.items():
        if not start.isdigit():
            raise ValueError(f"a window begins at {start[:40]!r}, which is not a number of seconds")
        inputs, outputs = _lengths(window.input_tokens), _lengths(window.output_tokens)
        if inputs is not None and outputs is not None:
            known.append((float(start), (inputs, outputs)))
    known.sort(key=lambda item: item[0])
    return tuple(start for start, _ in known), tuple(pair for _, pair in known)


def _lengths(text: str) -> _Lengths | None:
    """Parse ``{length: probability, ...}``; None when it is empty. Raises ValueError."""
    inner = text.strip().removeprefix("{").removesuffix("}")
    pairs = [pair.split(":") for pair in inner.split(",") if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("lengths must be written {length: probability, ...}")
    shares: Mapping[int, float] = msgspec.convert(
        {int(float(length)): float(share) for length, share in pairs}, type=_Shares
    )
    if math.fsum(shares.values()) <= 0:
        return None
    return _Lengths(tuple(shares), tuple(accumulate(shares.values())))


def _within(client: _Client, start: float, end: float) -> Iterator[tuple[_Arrivals, float, float]]:
    """Windows of a client that overlap a time span, with the overlap."""
    for index, window in enumerate(client.windows):
        until = window.start + WINDOW_SECONDS
        if index + 1 < len(client.windows):
            until = min(until, client.windows[index + 1].start)
        if window.start < end and until > start:
            yield window, max(start, window.start), min(end, until)


def _requests(
    client: _Client,
    window: _Arrivals,
    begin: float,
    until: float,
    origin: float,
    rate_scale: float,
    rng: random.Random,
) -> Iterator[TraceRequest]:
    scale = window.scale / rate_scale
    inputs, outputs = client.lengths[max(0, bisect_right(client.length_starts, begin) - 1)]

    def gap() -> float:
        if window.family == "Gamma":
            return rng.gammavariate(window.shape, scale)
        return rng.weibullvariate(scale, window.shape)

    # The window does not begin with a request: it falls into some gap.
    at = begin + gap() * rng.random()
    while at < until:
        yield TraceRequest(at - origin, inputs.draw(rng), outputs.draw(rng), session=client.name)
        at += gap()
