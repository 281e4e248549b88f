"""Disks that refuse a sync, a write or a descriptor: nothing is promised that is not there."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nexusfs.contracts.errors import CorruptError, KernelError
from nexusfs.contracts.node import Change, NewNode
from nexusfs.contracts.store import ROOT_INO, Extent
from nexusfs.drivers.blob_local import LocalBlobs
from nexusfs.drivers.meta_tables import MetaTables
from nexusfs.drivers.record_file import RecordFile
from nexusfs.drivers.store_local import LocalStore, open_store
from nexusfs.fs.content import Content
from tests.unit.drivers.test_recovery import crashed

FILE = NewNode(stat.S_IFREG | 0o644, 0, 0)


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> Iterator[None]:
    """`os.name` fails with an errno."""

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        yield


def make(store: LocalStore, name: bytes, data: bytes = b"") -> int:
    made = store.meta.create(ROOT_INO, name, FILE)
    if data:
        Content(store).write(made.ino, data, 0)
    return made.ino


def names(store: LocalStore) -> int:
    return len(store.meta.readdir(ROOT_INO))


@pytest.mark.parametrize("step", ["sync", "flush"])
def test_after_a_sync_that_failed_nothing_is_taken_in_and_all_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = open_store(tmp_path / "s")
    data = os.urandom(100_000)
    ino = make(store, b"a", data)
    with broken(monkeypatch, "fdatasync", errno.EIO), pytest.raises(KernelError, match="disk"):
        store.sync() if step == "sync" else store.flush()

    # The disk is well again, and Linux has forgotten what it could not write.
    for call in (store.sync, store.flush, lambda: make(store, b"b")):
        with pytest.raises(KernelError, match="unmount, look at the disk"):
            call()
    assert Content(store).read(ino, 0, len(data)) == data
    with pytest.raises(KernelError):
        store.close()

    after = open_store(tmp_path / "s")
    assert names(after) == 1
    make(after, b"b")
    after.sync()
    after.close()


def test_a_flush_stores_nothing_whose_sync_failed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    make(store, b"a", os.urandom(100_000))
    round_ = store.begin_flush()
    round_.seal()
    round_.take()
    with broken(monkeypatch, "fdatasync", errno.EIO), pytest.raises(KernelError):
        store.begin_sync().wait()

    with pytest.raises(KernelError, match="unmount, look at the disk"):
        round_.write()

    round_.end()
    assert store._tables.number("applied") == 0
    with pytest.raises(KernelError):
        store.close()


def test_a_sync_without_descriptors_is_an_error_and_the_next_one_syncs_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    make(store, b"a", os.urandom(100_000))
    with broken(monkeypatch, "dup", errno.EMFILE), pytest.raises(KernelError):
        store.sync()
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
    )

    store.sync()

    assert synced == ["00000001.seg", "ops.0"]
    monkeypatch.undo()
    store.close()


def test_a_file_of_records_whose_new_beginning_fails_keeps_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RecordFile(tmp_path / "f")
    file.append(b"old")
    with broken(monkeypatch, "pwrite", errno.EIO), pytest.raises(KernelError):
        file.restart()
    file.append(b"new")

    assert RecordFile(tmp_path / "f").found == [b"old", b"new"]


def test_an_open_that_fails_at_its_flush_loses_nothing_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    make(store, b"first")
    store.flush()  # The journal is in its second file now.
    for number in range(50):
        make(store, b"f%d" % number)
    with monkeypatch.context() as patch:
        patch.setattr("tests.unit.drivers.test_recovery.open_store", lambda path: path)
        copy = crashed(store, tmp_path / "t")
        assert isinstance(copy, Path)

        def refuse(tables: object, batch: object) -> None:
            raise KernelError("the store's disk: Input/output error")

        patch.setattr(MetaTables, "store", refuse)
        for _ in range(3):
            with pytest.raises(KernelError):
                open_store(tmp_path / "t")

    after = open_store(tmp_path / "t")
    assert names(after) == 51
    after.close()


def test_an_open_that_is_interrupted_loses_nothing_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    for number in range(50):
        make(store, b"f%d" % number)
    with monkeypatch.context() as patch:
        patch.setattr("tests.unit.drivers.test_recovery.open_store", lambda path: path)
        crashed(store, tmp_path / "t")

    def interrupt(payload: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nexusfs.drivers.store_local.unpack", interrupt)
        open_store(tmp_path / "t")

    after = open_store(tmp_path / "t")
    assert names(after) == 50
    after.close()


def test_space_that_cannot_be_freed_fails_no_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path / "s")
    make(store, b"a", os.urandom(100_000))
    store.flush()

    def refuse(blobs: object, ref: object) -> None:
        raise KernelError("the store's disk: Operation not permitted")

    monkeypatch.setattr(LocalBlobs, "delete", refuse)
    store.meta.unlink(ROOT_INO, b"a")
    store.flush()

    assert "was not freed: the store's disk: Operation not permitted" in caplog.text
    monkeypatch.undo()
    store.close()


@pytest.mark.parametrize("stored", [True, False])
def test_a_damaged_file_is_whole_again_when_its_bytes_are_written_once_more(
    tmp_path: Path, stored: bool
) -> None:
    store = open_store(tmp_path / "s")
    data = os.urandom(100_000)
    ino = make(store, b"a", data)
    twin = make(store, b"twin", data)
    store.close()
    with (tmp_path / "s/blobs/00000001.seg").open("r+b") as segment:
        segment.seek(5000)
        segment.write(b"damage")
    store = open_store(tmp_path / "s")
    with pytest.raises(CorruptError):
        Content(store).read(ino, 0, len(data))

    store.meta.setattr(ino, Change(size=0))
    Content(store).write(ino, data, 0)
    if stored:
        store.flush()
    store = crashed(store, tmp_path / "t")

    for each in (ino, twin):
        assert Content(store).read(each, 0, len(data)) == data
    store.close()


def test_a_damaged_file_of_small_writes_is_whole_again_too(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    data = os.urandom(20_000)
    ino = make(store, b"a", data)
    store.close()
    with (tmp_path / "s/blobs/00000001.seg").open("r+b") as segment:
        segment.seek(5000)
        segment.write(b"damage")
    store = open_store(tmp_path / "s")
    with pytest.raises(CorruptError):
        Content(store).read(ino, 0, len(data))

    copy = make(store, b"copy", data)  # A flush makes a blob of it.
    store.close()

    store = open_store(tmp_path / "s")
    for each in (ino, copy):
        assert Content(store).read(each, 0, len(data)) == data
    store.close()


def test_what_a_file_holds_is_never_taken_for_a_record_of_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = RecordFile(path)
    other = RecordFile(tmp_path / "g")
    other.restart()  # The generation that the first file will have, if they were counted.
    other.append(b"forged")
    record = (tmp_path / "g").read_bytes()[16:]
    file.append(record.rjust(4096 - 16 - 8 + len(record), b"\0"))  # On a page's border.
    file.restart()
    file.append(b"real")

    assert RecordFile(path).found == [b"real"]


def test_the_last_bytes_of_the_longest_file_can_be_written_and_read(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    ino = make(store, b"a", b"x")
    store.close()
    store = open_store(tmp_path / "s")
    end = (1 << 63) - 1

    store.meta.write(ino, [Extent(end - 5, 5, b"12345")])
    store.flush()

    assert Content(store).read(ino, end - 7, end) == b"\0\x0012345"
    with suppress(KernelError):
        store.close()
