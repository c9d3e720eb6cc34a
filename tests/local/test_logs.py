"""Logs of pods: bounded on disk, with the last lines at hand."""

from pathlib import Path

from paceline.local.logs import MAX_LINE_BYTES, PodLog


def test_output_goes_to_the_file_and_its_last_lines_are_remembered(tmp_path: Path) -> None:
    log = PodLog(tmp_path / "deep" / "pod.log")
    log.write(b"one\ntwo\n\nthr")
    log.write(b"ee\nfour")
    log.close()
    assert log.path.read_bytes() == b"one\ntwo\n\nthree\nfour"
    assert log.last_lines(3) == ["two", "three", "four"]


def test_the_file_is_begun_anew_at_its_bound_and_one_before_it_is_kept(tmp_path: Path) -> None:
    log = PodLog(tmp_path / "pod.log", max_bytes=100)
    for number in range(50):
        log.write(b"%09d\n" % number)
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["pod.log", "pod.log.1"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert log.path.read_bytes().endswith(b"000000049\n")


def test_a_line_without_an_end_does_not_grow_in_memory(tmp_path: Path) -> None:
    log = PodLog(tmp_path / "pod.log")
    for _ in range(10):
        log.write(b"x" * MAX_LINE_BYTES)
    log.close()
    assert [len(line) for line in log.last_lines(5)] == [MAX_LINE_BYTES]


def test_bytes_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    log = PodLog(tmp_path / "pod.log")
    log.write(b"\xff\xfe\n")
    log.close()
    assert log.last_lines(1) == ["\ufffd\ufffd"]


def test_output_that_can_not_be_written_is_lost_but_remembered(tmp_path: Path, caplog: object) -> None:
    log = PodLog(tmp_path / "pod.log", max_bytes=4)
    log.write(b"one\n")
    log.path.unlink()
    log.path.parent.rmdir()
    log.write(b"two\n")
    log.write(b"three\n")
    log.close()
    assert log.last_lines(2) == ["two", "three"]
