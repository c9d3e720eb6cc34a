"""The other trace formats: what they say is read, what is wrong with them is named by line."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import ConfigError, TraceError
from paceline.traces import servegen
from paceline.traces.azure import read_azure
from paceline.traces.bailian import read_bailian
from paceline.traces.burstgpt import read_burstgpt
from paceline.traces.formats import FORMATS, READERS, read_trace
from paceline.traces.record import Trace, TraceRequest
from paceline.traces.recording import read_recording, write_recording
from paceline.traces.rows import MAX_PROBLEMS
from paceline.traces.servegen import read_servegen
from paceline.traces.sharegpt import read_sharegpt

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,many,55
yesterday,10,10
2023-11-16 18:15:52,10
2024-05-10 00:00:00.009930+00:00,0,5
"""


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def written(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_azure_rows_begin_at_zero_and_know_no_prefixes(tmp_path: Path) -> None:
    trace = read_azure(written(tmp_path, AZURE))
    assert trace.requests == (
        TraceRequest(0.0, 374, 44),
        TraceRequest(pytest.approx(4.314579), 396, 109),  # type: ignore[arg-type]
    )


def test_bad_azure_rows_are_named_by_line(tmp_path: Path) -> None:
    trace = read_azure(written(tmp_path, AZURE))
    assert trace.malformed == 4
    assert [str(problem) for problem in trace.problems] == [
        "line 4: ContextTokens must be a whole number, not 'many'",
        "line 5: TIMESTAMP must be a date and time, not 'yesterday'",
        "line 6: has 2 values, the header 3",
        "line 7: ContextTokens must be between 1 and 100,000,000, not 0",
    ]


def test_a_csv_file_of_another_kind_is_refused_by_its_header(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no column GeneratedTokens"):
        read_azure(written(tmp_path, "Timestamp,ContextTokens\n1,2\n"))


def test_burstgpt_sessions_are_kept_and_failures_left_out(tmp_path: Path) -> None:
    trace = read_burstgpt(
        written(
            tmp_path,
            "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "5,s1,2.0,ChatGPT,472,18,490,Conversation log\n"
            "45.5,s1,0.1,ChatGPT,1087,0,1087,Conversation log\n"
            "nan,s1,0.1,ChatGPT,1087,3,1087,Conversation log\n"
            "118,,4.0,GPT-4,417,276,693,API log\n",
        )
    )
    assert trace.requests == (TraceRequest(0.0, 472, 18, session="s1"), TraceRequest(113.0, 417, 276))
    assert [str(problem) for problem in trace.problems] == [
        "line 3: Response tokens is 0: the request failed",
        "line 4: Timestamp must be a number of seconds, not 'nan'",
    ]


def test_bailian_turns_of_a_chat_share_a_session(tmp_path: Path) -> None:
    trace = read_bailian(
        written(
            tmp_path,
            lines(
                {"chat_id": 7, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 20, "output_length": 3,
                 "type": "text", "turn": 1, "hash_ids": [4, 5]},
                {"chat_id": 9, "parent_chat_id": 7, "timestamp": 2.5, "input_length": 40, "output_length": 3,
                 "type": "text", "turn": 2, "hash_ids": [4, 5]},
                {"chat_id": 10, "timestamp": 2.5, "input_length": 40, "output_length": 3, "hash_ids": [1]},
                {"chat_id": 11, "timestamp": -2.5, "input_length": 40, "output_length": 3},
            ),
        )
    )  # fmt: skip
    first, second = trace.requests
    assert (first.session, second.session) == ("7", "7")
    assert first.blocks == (4, 5)
    assert second.blocks[:2] == (4, 5)
    assert len(second.blocks) == 3
    assert [problem.line for problem in trace.problems] == [3, 4]


def test_equal_token_ids_become_equal_prefix_blocks(tmp_path: Path) -> None:
    system, one, other = list(range(64)), list(range(100, 170)), list(range(200, 270))
    rows = [
        {"input_toks": 134, "output_toks": 5, "arrival_time_ns": 10**9, "input_tok_ids": system + one},
        {"input_toks": 134, "output_toks": 5, "arrival_time_ns": 2 * 10**9, "input_tok_ids": system + other},
        {"input_toks": 64, "output_toks": 5, "arrival_time_ns": 3 * 10**9, "input_tok_ids": other[:64]},
        {"input_toks": 99, "output_toks": 5, "arrival_time_ns": 3 * 10**9, "input_tok_ids": other},
        {"input_toks": 1, "output_toks": 5, "arrival_time_ns": 10**400},
    ]
    trace = read_sharegpt(written(tmp_path, lines(*rows)))
    first, second, third = (request.blocks for request in trace.requests)
    assert first[0] == second[0]
    assert not set(first[1:]) & set(second[1:])
    assert not set(third) & {*first, *second}
    assert [problem.line for problem in trace.problems] == [4, 5]


REQUESTS = st.lists(
    st.builds(
        lambda at, blocks, output, session: TraceRequest(at, max(1, 16 * blocks), output, (3,) * blocks, 16, session),
        st.floats(0, 1e6),
        st.integers(0, 5),
        st.integers(1, 1000),
        st.none() | st.text(max_size=5),
    ),
    min_size=1,
)


@settings(deadline=None)
@given(REQUESTS)
def test_what_was_recorded_is_read_back_unchanged(requests: list[TraceRequest]) -> None:
    ordered = tuple(sorted(requests, key=lambda request: request.arrival_seconds))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "load.jsonl"
        write_recording(Trace("load", ordered), path)
        assert read_recording(path).requests == ordered


def test_a_recording_with_an_unknown_field_or_too_few_blocks_is_named_by_line(tmp_path: Path) -> None:
    good = {"arrivalSeconds": 1, "inputTokens": 5, "outputTokens": 5}
    trace = read_recording(
        written(tmp_path, lines(good, good | {"tokens": 3}, good | {"blocks": [1, 2]}) + "\n{broken\n")
    )
    assert len(trace.requests) == 1
    assert [problem.line for problem in trace.problems] == [2, 3, 5]


def test_all_bad_rows_are_counted_though_only_the_first_are_described(tmp_path: Path) -> None:
    good = {"arrivalSeconds": 1, "inputTokens": 5, "outputTokens": 5}
    trace = read_recording(written(tmp_path, lines(good, *[{}] * 50)))
    assert trace.malformed == 50
    assert len(trace.problems) == MAX_PROBLEMS


@pytest.mark.parametrize("kind", sorted(READERS))
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TraceError):
        read_trace(written(tmp_path, "\x00\x01 nothing of the kind\n\n"), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TraceError, match="absent"):
        read_trace(tmp_path / "absent", kind)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(AZURE.encode() * 100)[:60])
    with pytest.raises(TraceError, match="can't read the trace"):
        read_azure(path)


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mooncake, azure"):
        read_trace(tmp_path, "excel")


def test_a_window_of_any_format_counts_from_its_own_start(tmp_path: Path) -> None:
    rows = [{"arrivalSeconds": 60 * minute, "inputTokens": 5, "outputTokens": 5} for minute in range(10)]
    trace = read_trace(written(tmp_path, lines(*rows)), "paceline", start_minute=3, minutes=2)
    assert [request.arrival_seconds for request in trace.requests] == [0.0, 60.0]


def test_without_a_format_recordings_and_what_mooncake_published_are_told_apart(tmp_path: Path) -> None:
    ours = lines({"arrivalSeconds": 0.0, "inputTokens": 5, "outputTokens": 6})
    theirs = lines({"timestamp": 0, "input_length": 5, "output_length": 7, "hash_ids": [1]})
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(b"\n" + ours.encode()))
    assert [request.output_tokens for request in read_trace(written(tmp_path, ours), None).requests] == [6]
    assert [request.output_tokens for request in read_trace(packed, None).requests] == [6]
    assert [request.output_tokens for request in read_trace(written(tmp_path, theirs), None).requests] == [7]
    with pytest.raises(TraceError, match="a Mooncake request"):
        read_trace(written(tmp_path, ""), None)


CLIENT = {
    "data/x/chunk-0-trace.csv": '0,2,1,Gamma,1.0,0.5\n600,1,2,Weibull,0.5,0.5\n1200,0,0,,0,0\nbroken\n"a\rb\n',
    "data/x/chunk-0-dataset.json": json.dumps(
        {
            "0": {"input_tokens": "{100: 0.5, 200: 0.5}", "output_tokens": "{7: 1.0}"},
            "21600": {"input_tokens": "{}", "output_tokens": "{}"},
        }
    ),
    "data/x/chunk-1-trace.csv": "0,5,1,Gamma,1.0,0.2\n",
}


def servegen_archive(folder: Path) -> Path:
    path = folder / "clients.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in CLIENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_servegen_arrivals_have_the_rates_and_lengths_of_their_windows(tmp_path: Path) -> None:
    trace = read_servegen(servegen_archive(tmp_path)).generate(
        start_seconds=0, seconds=1200, rate_scale=1, rng=random.Random(1)
    )
    first = [request for request in trace.requests if request.arrival_seconds < 600]
    assert len(first) == pytest.approx(1200, rel=0.1)
    assert len(trace.requests) - len(first) == pytest.approx(600, rel=0.3)
    assert {request.input_tokens for request in trace.requests} == {100, 200}
    assert {request.output_tokens for request in trace.requests} == {7}


def test_what_is_no_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text("0,5,1,Gamma,1.0,0.2\n")
    with pytest.raises(TraceError, match="neither a folder of ServeGen's nor a tar archive") as caught:
        read_servegen(path)
    assert "\n" not in str(caught.value)


def test_a_rate_scale_thins_a_servegen_load(tmp_path: Path) -> None:
    clients = read_servegen(servegen_archive(tmp_path))
    trace = clients.generate(start_seconds=0, seconds=600, rate_scale=0.1, rng=random.Random(1))
    assert len(trace.requests) == pytest.approx(120, rel=0.4)


def test_servegen_clients_without_lengths_and_bad_rows_are_named(tmp_path: Path) -> None:
    trace = read_servegen(servegen_archive(tmp_path)).generate(
        start_seconds=0, seconds=60, rate_scale=1, rng=random.Random(1)
    )
    reasons = [str(problem) for problem in trace.problems]
    for line in (4, 5, 6):  # the last two are one that is cut by a bare carriage return
        assert any(f"line {line}: of chunk-0-trace.csv" in reason for reason in reasons)
    assert any("chunk-1-trace.csv" in reason and "left out" in reason for reason in reasons)


@pytest.mark.parametrize(
    "lengths",
    [
        '{"0": {"input_tokens": "{inf: 1.0}", "output_tokens": "{7: 1.0}"}}',
        '{"0": {"input_tokens": "{1e400: 1.0}", "output_tokens": "{7: 1.0}"}}',
        '{"0": {"input_tokens": "{nan: 1.0}", "output_tokens": "{7: 1.0}"}}',
        '{"0": {"x": ' + "[" * 1100 + "]" * 1100 + "}}",
    ],
    ids=["infinite", "too large", "no number", "deep"],
)
def test_lengths_that_can_not_be_leave_their_client_out(tmp_path: Path, lengths: str) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text(CLIENT["data/x/chunk-0-trace.csv"])
    (tmp_path / "chunk-0-dataset.json").write_text(lengths)
    with pytest.raises(TraceError, match=r"line \d+: of chunk-0-"):
        read_servegen(tmp_path)


@pytest.mark.parametrize("family", ["Gamma", "Weibull"])
def test_a_window_whose_gaps_would_make_requests_without_end_is_named(tmp_path: Path, family: str) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text(f"0,5,1,{family},0.7,2.9e-320\n600,5,1,{family},1.0,0.2\n")
    (tmp_path / "chunk-0-dataset.json").write_text(CLIENT["data/x/chunk-0-dataset.json"])
    trace = read_servegen(tmp_path).generate(start_seconds=0, seconds=1200, rate_scale=1, rng=random.Random(1))
    assert trace.malformed == 1
    assert min(request.arrival_seconds for request in trace.requests) >= 600


def test_gaps_that_make_more_requests_than_the_rates_say_end_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servegen, "MAX_REQUESTS", 5_000)
    (tmp_path / "chunk-0-trace.csv").write_text("0,5,1,Gamma,1.0,0.0002\n")
    (tmp_path / "chunk-0-dataset.json").write_text(CLIENT["data/x/chunk-0-dataset.json"])
    with pytest.raises(ConfigError, match="more than can be simulated, 5,000"):
        read_servegen(tmp_path).generate(start_seconds=0, seconds=600, rate_scale=1, rng=random.Random(1))


def test_the_same_seed_generates_the_same_servegen_load(tmp_path: Path) -> None:
    path = servegen_archive(tmp_path)
    one, other, third = (read_trace(path, "servegen", minutes=5, seed=seed) for seed in (1, 1, 2))
    assert one == other != third


def test_a_servegen_load_that_is_too_large_names_the_rate_that_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--rate-scale below"):
        read_trace(servegen_archive(tmp_path), "servegen", minutes=20, generated_rate=1e5)


def test_a_window_without_servegen_traffic_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no request arrives"):
        read_trace(servegen_archive(tmp_path), "servegen", start_minute=30, minutes=5)


@pytest.mark.parametrize("name", ["conversation", "agents"])
def test_a_load_is_generated_where_no_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = read_trace(Path(name), "mooncake", minutes=2, seed=3)
    assert trace == read_trace(Path(name), "azure", minutes=2, seed=3)
    assert trace.name == name
    more = read_trace(Path(name), "mooncake", minutes=2, generated_rate=5, seed=3)
    assert len(more.requests) > 2 * len(trace.requests)
    part = read_trace(Path(name), "mooncake", start_minute=1, minutes=1, seed=3)
    assert part.requests[-1].arrival_seconds < 60
    (tmp_path / name).write_text("nothing\n")
    with pytest.raises(TraceError, match="there is no request in it"):
        read_trace(Path(name), "mooncake")
