"""Keys come from files, are kept as digests, and change while the router runs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from paceline_worker.router.tenants import keys as module
from paceline_worker.router.tenants.keys import MAX_FILE_BYTES, MAX_KEYS, KeyRing

A, B = b"key-of-a-0123456789", b"key-of-b-0123456789"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(A + b"\n")
    (tmp_path / "b").write_bytes(B)
    return tmp_path


def ring(folder: Path, *tenants: str) -> KeyRing:
    made = KeyRing(folder, tenants or ("a", "b"), b"pepper")
    made.read()
    return made


def test_a_key_opens_its_tenant_s_account_and_no_other(folder: Path) -> None:
    found = ring(folder)
    assert found.owner(b"Bearer " + A) == "a"
    assert found.owner(b"bearer  " + B) == "b"
    assert found.counts == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", A, b"Basic " + A, b"Bearer " + A[:-1], b"Bearer " + A + b"x", b"Bearer #"],
)
def test_nothing_else_opens_any(folder: Path, header: bytes | None) -> None:
    assert ring(folder).owner(header) is None


def test_without_any_file_nothing_opens(tmp_path: Path) -> None:
    found = ring(tmp_path)
    assert found.owner(b"Bearer " + A) is None
    assert found.owner(b"Bearer ") is None
    assert found.counts == {"a": 0, "b": 0}


def test_no_key_is_kept_in_memory(folder: Path) -> None:
    found = ring(folder)
    assert A not in repr(vars(found)).encode()


def test_two_keys_of_a_tenant_are_in_force_together_so_that_one_can_be_replaced(folder: Path) -> None:
    found = ring(folder)
    new = b"the-new-key-of-a-0123"
    (folder / "a").write_bytes(b"# since May\n%b\n\n%b\n" % (A, new))
    found.read()
    assert found.owner(b"Bearer " + A) == found.owner(b"Bearer " + new) == "a"
    (folder / "a").write_bytes(new)
    found.read()
    assert found.owner(b"Bearer " + A) is None
    assert found.owner(b"Bearer " + new) == "a"


def test_a_file_that_goes_takes_its_keys_along(folder: Path) -> None:
    found = ring(folder)
    (folder / "a").unlink()
    found.read()
    assert found.owner(b"Bearer " + A) is None
    assert found.owner(b"Bearer " + B) == "b"


def test_files_that_did_not_change_are_not_read_again(folder: Path) -> None:
    found = ring(folder)
    changes = found.changes
    found.read()
    assert found.changes == changes


def test_keys_are_renewed_the_way_the_kubelet_renews_them(tmp_path: Path) -> None:
    """The files are links into a folder that is exchanged as a whole."""
    for name, key in (("one", A), ("two", B)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(key)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "a").symlink_to("..data/a")
    found = ring(tmp_path, "a")
    assert found.owner(b"Bearer " + A) == "a"
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    found.read()
    assert found.owner(b"Bearer " + A) is None
    assert found.owner(b"Bearer " + B) == "a"


def test_what_is_no_key_is_told_by_its_line_and_never_shown(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a").write_bytes(b"short\n" + A + b"\nwith a space in the middle\n")
    found = ring(folder)
    assert found.counts["a"] == 1
    assert "line 1" in caplog.text
    assert "line 3" in caplog.text
    assert "short" not in caplog.text
    assert "middle" not in caplog.text


def test_a_key_that_two_tenants_have_stays_that_of_the_first(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "b").write_bytes(A)
    found = ring(folder)
    assert found.owner(b"Bearer " + A) == "a"
    assert "tenants a and b have a key in common" in caplog.text


def test_what_a_file_may_hold_is_bounded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a").write_bytes(b"\n".join(b"key-number-%010d" % number for number in range(MAX_KEYS + 10)))
    (folder / "b").write_bytes(B.ljust(MAX_FILE_BYTES + 1, b"\n"))
    found = ring(folder)
    assert found.counts == {"a": MAX_KEYS, "b": 0}


def test_a_file_that_can_not_be_read_leaves_the_last_keys_in_force(folder: Path) -> None:
    found = ring(folder)
    (folder / "a").unlink()
    (folder / "a").mkdir()
    found.read()
    assert found.owner(b"Bearer " + A) == "a"


async def test_a_changed_file_is_found_without_being_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    found = ring(folder)
    logging.getLogger(module.__name__).setLevel(logging.INFO)
    following = asyncio.create_task(found.follow())
    (folder / "a").write_bytes(b"another-key-of-a-0123")
    async with asyncio.timeout(30):
        while found.owner(b"Bearer another-key-of-a-0123") is None:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    following.cancel()
