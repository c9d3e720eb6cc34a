"""Reading Mooncake traces: good rows become requests, bad rows are counted and named, bad files are refused."""

import gzip
import json
import os
from pathlib import Path

import pytest

from paceline.errors import TraceError
from paceline.traces.mooncake import read_mooncake
from paceline.traces.record import assumed_answer_seconds
from paceline.traces.rows import MAX_LINE_BYTES, MAX_PROBLEMS

ROW = {"timestamp": 1500, "input_length": 600, "output_length": 7, "hash_ids": [3, 9]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_row_becomes_a_request_with_seconds_and_blocks(tmp_path: Path) -> None:
    trace = read_mooncake(write(tmp_path / "t.jsonl", ROW))
    (request,) = trace.requests
    assert (request.arrival_seconds, request.input_tokens, request.output_tokens) == (1.5, 600, 7)
    assert (request.blocks, request.block_size) == ((3, 9), 512)
    assert (trace.name, trace.malformed) == ("t.jsonl", 0)


def test_a_compressed_file_is_told_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode()))
    assert len(read_mooncake(path).requests) == 1


def test_rows_are_put_in_order_of_arrival(tmp_path: Path) -> None:
    trace = read_mooncake(write(tmp_path / "t", ROW, ROW | {"timestamp": 0}))
    assert [request.arrival_seconds for request in trace.requests] == [0.0, 1.5]


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    trace = read_mooncake(write(tmp_path / "t", "", ROW, "   "))
    assert (len(trace.requests), trace.malformed) == (1, 0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "truncated"),
        ("[1]", "Expected `object`"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "malformed"),
        (ROW | {"timestamp": -1}, "timestamp"),
        (ROW | {"timestamp": "soon"}, "timestamp"),
        (ROW | {"input_length": 0}, "input_length"),
        (ROW | {"input_length": 1.5}, "input_length"),
        (ROW | {"output_length": 0}, "output_length"),
        (ROW | {"hash_ids": [1, -2]}, "hash_ids"),
        (ROW | {"hash_ids": [1]}, "hash_ids has 1 entries, but input_length 600 makes 2"),
        ({"timestamp": 0, "input_length": 5}, "output_length"),
        (ROW | {"timestamp": None}, "has no timestamp, and no request of its session before it"),
        (ROW | {"timestamp": None, "session_id": "new", "delay": 5}, "has no timestamp, and no request of its session"),
        (ROW | {"delay": -1}, "delay"),
        ('{"unknown":' + "[" * 1100 + "]" * 1100 + "}", "recursion"),
    ],
)
def test_a_bad_row_costs_that_row_only_and_is_named_by_its_line(tmp_path: Path, row: object, reason: str) -> None:
    trace = read_mooncake(write(tmp_path / "t", ROW, row, ROW))
    assert (len(trace.requests), trace.malformed) == (2, 1)
    (problem,) = trace.problems
    assert problem.line == 2
    assert reason in problem.reason
    assert str(problem).startswith("line 2: ")


def test_a_turn_without_a_time_stamp_comes_its_delay_after_the_answer_to_the_one_before(tmp_path: Path) -> None:
    later = {"session_id": "chat", "delay": 2000, "input_length": 700, "output_length": 100}
    trace = read_mooncake(write(tmp_path / "t", ROW | {"session_id": "chat"}, later, later, ROW | {"session_id": 7}))
    first, other, second, third = trace.requests
    assert [request.session for request in trace.requests] == ["chat", "7", "chat", "chat"]
    assert other.arrival_seconds == first.arrival_seconds == 1.5
    assert second.arrival_seconds == pytest.approx(1.5 + assumed_answer_seconds(7) + 2)
    assert third.arrival_seconds == pytest.approx(second.arrival_seconds + assumed_answer_seconds(100) + 2)


def test_all_bad_rows_are_counted_but_only_the_first_are_described(tmp_path: Path) -> None:
    trace = read_mooncake(write(tmp_path / "t", ROW, *["x"] * (MAX_PROBLEMS + 5)))
    assert trace.malformed == MAX_PROBLEMS + 5
    assert len(trace.problems) == MAX_PROBLEMS


def test_a_file_without_a_good_row_is_refused_with_its_first_problem(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"there is no request in it that is a Mooncake request \(line 1: "):
        read_mooncake(write(tmp_path / "t", "x", "y"))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.gz: can't read the trace: No such file"):
        read_mooncake(tmp_path / "nowhere.gz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="Is a directory"):
        read_mooncake(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: data[:20] + b"\xff\xff" + data[22:]])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: object) -> None:
    data = gzip.compress(b"".join((json.dumps(ROW | {"timestamp": n}) + "\n").encode() for n in range(200)))
    path = tmp_path / "t.gz"
    path.write_bytes(damage(data))  # type: ignore[operator]
    with pytest.raises(TraceError, match="can't read the trace"):
        read_mooncake(path)


def test_a_line_without_an_end_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"x" * (MAX_LINE_BYTES + 10))
    with pytest.raises(TraceError, match="line 1 is longer than"):
        read_mooncake(path)


def test_the_real_conversation_trace_is_read_without_a_bad_row() -> None:
    data = Path(os.environ.get("PACELINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "traces" / "mooncake_conversation_trace.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; set PACELINE_DATA to the folder that holds it")
    trace = read_mooncake(path)
    assert (len(trace.requests), trace.malformed) == (12_031, 0)
    assert round(sum(r.input_tokens for r in trace.requests) / len(trace.requests)) == 12_035
