"""Files of records: what a crash and garbage leave of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nexusfs.contracts.errors import NoSpaceError
from nexusfs.drivers.record_file import PAGE_BYTES, RecordFile


def found(path: Path) -> list[bytes]:
    file = RecordFile(path)
    file.close()
    return file.found


def synced(file: RecordFile) -> None:
    os.close(file.unsynced_fd())


def test_records_are_found_again_in_order(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "f")
    for payload in (b"a", b"", b"c" * 10_000):
        file.append(payload)

    assert found(tmp_path / "f") == [b"a", b"", b"c" * 10_000]


def test_records_are_found_across_syncs(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "f")
    for n in range(20):
        file.append(b"%d" % n * n * 100)
        if n % 3 == 0:
            synced(file)
        if n % 7 == 0:
            file.sync()

    assert found(tmp_path / "f") == [b"%d" % n * n * 100 for n in range(20)]


def test_what_follows_a_sync_shares_no_page_with_what_was_synced(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "f")
    file.append(b"a")
    synced(file)
    end = file.end
    file.append(b"b")
    raw = (tmp_path / "f").read_bytes()

    assert end < PAGE_BYTES < file.end
    (tmp_path / "f").write_bytes(raw[:PAGE_BYTES] + os.urandom(100))
    assert found(tmp_path / "f") == [b"a"]


def test_a_file_that_begins_anew_has_none_of_the_old_records(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "f")
    for n in range(9):
        file.append(b"old %d" % n)
    file.restart()
    file.append(b"new 0")

    assert os.stat(tmp_path / "f").st_size > file.end
    assert found(tmp_path / "f") == [b"new 0"]


def _cut(raw: bytes) -> bytes:
    return raw[:-1]


def _flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def _zeros(raw: bytes) -> bytes:
    return raw[:-5] + bytes(5)


def _garbage(raw: bytes) -> bytes:
    return raw[:-9] + os.urandom(9)


HARM = pytest.mark.parametrize("harm", [_cut, _flip, _zeros, _garbage])


@HARM
def test_a_harmed_last_record_is_cut_off(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    file = RecordFile(tmp_path / "f")
    file.append(b"a")
    file.append(b"b")
    path = tmp_path / "f"
    path.write_bytes(harm(path.read_bytes()))

    again = RecordFile(path)
    again.append(b"c")

    assert (again.found, found(path)) == ([b"a"], [b"a", b"c"])


def test_a_record_behind_a_harmed_one_does_not_come_back(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "f")
    file.append(b"a")
    harmed = file.end
    file.append(b"b")
    file.append(b"lost")
    path = tmp_path / "f"
    raw = bytearray(path.read_bytes())
    raw[harmed] ^= 0xFF
    path.write_bytes(raw)

    again = RecordFile(path)
    again.append(b"c")

    assert found(path) == [b"a", b"c"]


@pytest.mark.parametrize("raw", [b"", b"x", b"NXR1", bytes(16), os.urandom(5000)])
def test_a_file_of_garbage_is_an_empty_one(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "f").write_bytes(raw)

    file = RecordFile(tmp_path / "f")
    file.append(b"a")

    assert (file.found, found(tmp_path / "f")) == ([], [b"a"])


def test_a_full_disk_is_enospc_and_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile(tmp_path / "f")
    file.append(b"a")
    real, calls = os.pwrite, []

    def full(fd: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, data[:5], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpaceError):
            file.append(b"lost")
    file.append(b"b")

    assert found(tmp_path / "f") == [b"a", b"b"]


def test_a_closed_file_may_be_emptied(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "f")
    file.append(b"a")

    file.close(empty=True)

    assert os.stat(tmp_path / "f").st_size == 0
    assert found(tmp_path / "f") == []
