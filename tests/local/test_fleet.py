"""The fleet file: whole documents only, a new version for every change and only then."""

import threading
from pathlib import Path

import pytest

from paceline.api import wire
from paceline.errors import LocalRuntimeError
from paceline.local.fleet import FleetFile


def engine(name: str, port: int = 1) -> wire.EngineEndpoint:
    return wire.EngineEndpoint(
        name=name, host="h", port=port, role=wire.Role.BOTH, state=wire.EngineState.READY, start_id="1"
    )


def read(path: Path) -> wire.Fleet:
    return wire.decode(wire.Fleet, path.read_bytes(), source=str(path))


def test_versions_grow_with_changes_only(tmp_path: Path) -> None:
    file = FleetFile(tmp_path / "fleet.json")
    assert file.write(())
    assert not file.write(())
    assert file.write((engine("a"),))
    assert not file.write((engine("a"),))
    assert read(file.path) == wire.Fleet(version=2, engines=(engine("a"),))


def test_a_reader_never_sees_half_a_document(tmp_path: Path) -> None:
    file = FleetFile(tmp_path / "fleet.json")
    file.write(())
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            file.write(tuple(engine(f"e{n}", number + 1) for n in range(50)))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    versions = [0]
    while not done.is_set():
        versions.append(read(file.path).version)
    writer.join()
    assert versions == sorted(versions)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.json"]


def test_a_folder_that_is_gone_is_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(LocalRuntimeError, match=r"Can't write .*fleet\.json: No such file or directory\."):
        FleetFile(tmp_path / "gone" / "fleet.json").write(())
