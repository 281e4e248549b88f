"""What is found again after a crash: process death, power cuts, garbage at the ends of files."""

import logging
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from nexusfs.contracts.errors import CorruptError
from nexusfs.contracts.node import RENAME_EXCHANGE, Change, NewNode
from nexusfs.contracts.store import ROOT_INO, BlobRef, Extent, Store
from nexusfs.drivers.meta_body import WINDOW_BYTES
from nexusfs.drivers.store_local import LocalStore, open_store

FILE = NewNode(stat.S_IFREG | 0o644, 7, 8)
DIR = NewNode(stat.S_IFDIR | 0o755, 7, 8)


def put(store: Store, data: bytes) -> BlobRef:
    return store.blobs.put(store.blobs.digest(data), data)


def crashed(store: LocalStore, to: Path) -> LocalStore:
    """A store of what kill -9 would leave now."""
    shutil.copytree(store.directory, to)
    store.close()
    return open_store(to)


def tree(store: Store) -> object:
    """Everything that the metadata says."""

    def look(ino: int) -> object:
        st = store.meta.getattr(ino)
        xattrs = {name: store.meta.getxattr(ino, name) for name in store.meta.listxattr(ino)}
        if st.is_dir:
            return st, xattrs, {e.name: look(e.ino) for e in store.meta.readdir(ino)}
        if st.is_link:
            return st, xattrs, store.meta.readlink(ino)
        return st, xattrs, content(store, ino)

    return look(ROOT_INO)


def content(store: Store, ino: int) -> bytes:
    found = bytearray(store.meta.getattr(ino).size)
    for extent in store.meta.extents(ino, 0, len(found)):
        whole = store.blobs.get(extent.blob) if extent.blob else extent.data or b""
        found[extent.start : extent.stop] = whole[extent.offset : extent.offset + extent.length]
    return bytes(found)


def make_all(store: Store) -> None:
    """One of each kind of change."""
    meta = store.meta
    a = meta.create(ROOT_INO, b"a", FILE)
    b = meta.create(ROOT_INO, b"b", FILE)
    d = meta.create(ROOT_INO, b"d", DIR)
    meta.create(d.ino, b"link", NewNode(stat.S_IFLNK | 0o777, 1, 2, target=b"../x"))
    meta.create(d.ino, b"fifo", NewNode(stat.S_IFIFO | 0o600, 1, 2))
    meta.write(a.ino, [Extent(5, 9, b"some text")])
    meta.write(b.ino, [Extent(0, 9000, None, put(store, b"b" * 9000))])
    meta.write(b.ino, [Extent(WINDOW_BYTES - 100, 9000, None, put(store, b"c" * 9000))])
    meta.write(b.ino, [Extent(WINDOW_BYTES - 50, 100, b"d" * 100)])
    meta.setattr(b.ino, Change(size=WINDOW_BYTES + 25))
    meta.setattr(a.ino, Change(mode=0o600, uid=3, gid=4, atime_ns=5, mtime_ns=6))
    meta.setxattr(a.ino, b"user.x", b"1")
    meta.setxattr(a.ino, b"user.y", b"2")
    meta.removexattr(a.ino, b"user.x")
    meta.link(d.ino, b"hard", a.ino)
    meta.rename((ROOT_INO, b"b"), (d.ino, b"b"))
    meta.rename((ROOT_INO, b"a"), (d.ino, b"b"), RENAME_EXCHANGE)
    gone = meta.create(ROOT_INO, b"gone", DIR)
    meta.create(gone.ino, b"x", FILE)
    meta.unlink(gone.ino, b"x")
    meta.rmdir(ROOT_INO, b"gone")


@pytest.mark.parametrize("step", ["journal", "sealed", "taken", "written", "flushed", "both"])
def test_every_kind_of_change_survives_the_death_of_the_process(tmp_path: Path, step: str) -> None:
    store = open_store(tmp_path / "s")
    make_all(store)
    round_ = store.begin_flush()
    if step != "journal":
        round_.seal()
    if step in ("taken", "written", "flushed", "both"):
        round_.take()
    if step in ("written", "flushed", "both"):
        round_.write()
    if step in ("flushed", "both"):
        round_.end()
    if step == "both":
        meta = store.meta
        meta.write(meta.lookup(ROOT_INO, b"a"), [Extent(1, 3, b"new")])
        meta.unlink(meta.lookup(ROOT_INO, b"d"), b"hard")
        meta.create(ROOT_INO, b"new", FILE)
    expected = tree(store)

    after = crashed(store, tmp_path / "t")

    assert tree(after) == expected
    after.close()


def test_an_open_file_without_names_is_erased_at_the_next_open(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = put(store, os.urandom(20_000))
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.unlink(ROOT_INO, b"a", {made.ino})
    assert store.meta.getattr(made.ino).nlink == 0

    after = crashed(store, tmp_path / "t")
    after.flush()

    with pytest.raises(CorruptError):
        after.blobs.get(ref)
    after.close()


def test_inode_numbers_are_not_used_again_after_a_crash(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    first = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.unlink(ROOT_INO, b"a")

    after = crashed(store, tmp_path / "t")

    assert after.meta.create(ROOT_INO, b"a", FILE).ino > first.ino
    after.close()


def test_operations_whose_content_a_power_cut_took_are_dropped_from_there_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path / "s")
    kept = store.meta.create(ROOT_INO, b"kept", FILE)
    lost = store.meta.create(ROOT_INO, b"lost", FILE)
    ref = put(store, os.urandom(70_000))
    store.meta.write(lost.ino, [Extent(0, 70_000, None, ref)])
    store.meta.create(ROOT_INO, b"later", FILE)
    shutil.copytree(store.directory, tmp_path / "t")
    store.close()
    segment = tmp_path / "t" / "blobs" / "00000001.seg"
    segment.write_bytes(segment.read_bytes()[:30_000] + bytes(40_048))

    with caplog.at_level(logging.WARNING):
        after = open_store(tmp_path / "t")

    assert [e.ino for e in after.meta.readdir(ROOT_INO)] == [kept.ino, lost.ino]
    assert after.meta.getattr(lost.ino).size == 0
    assert "2 operations that were not synced are dropped" in caplog.text
    after.close()
    assert [e.name for e in open_store(tmp_path / "t").meta.readdir(ROOT_INO)] == [b"kept", b"lost"]


def test_a_blob_that_was_synced_and_is_bad_costs_no_later_operation(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    made = store.meta.create(ROOT_INO, b"bad", FILE)
    ref = put(store, os.urandom(70_000))
    store.meta.write(made.ino, [Extent(0, 70_000, None, ref)])
    store.sync()
    store.meta.create(ROOT_INO, b"later", FILE)
    shutil.copytree(store.directory, tmp_path / "t")
    store.close()
    segment = tmp_path / "t" / "blobs" / "00000001.seg"
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")

    after = open_store(tmp_path / "t")

    assert [e.name for e in after.meta.readdir(ROOT_INO)] == [b"bad", b"later"]
    with pytest.raises(CorruptError, match=ref.digest.hex()):
        after.blobs.get(ref)
    after.close()


def test_a_journal_without_its_synced_beginning_loses_only_what_was_stored(tmp_path: Path) -> None:
    """The file whose records are stored may be anything; the other one holds what follows."""
    store = open_store(tmp_path / "s")
    store.meta.create(ROOT_INO, b"a", FILE)
    store.flush()
    store.meta.create(ROOT_INO, b"b", FILE)
    shutil.copytree(store.directory, tmp_path / "t")
    store.close()
    (tmp_path / "t" / "ops.0").write_bytes(os.urandom(5000))

    after = open_store(tmp_path / "t")

    assert [e.name for e in after.meta.readdir(ROOT_INO)] == [b"a", b"b"]
    after.close()


def test_a_store_of_schema_1_is_upgraded_and_reads_the_same(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    made = store.meta.create(ROOT_INO, b"a", FILE)
    data = os.urandom(100_000)
    ref = put(store, data)
    store.meta.write(made.ino, [Extent(0, 100_000, None, ref)])
    store.meta.setattr(made.ino, Change(size=WINDOW_BYTES + 60_000))
    store.close()
    conn = sqlite3.connect(tmp_path / "s" / "meta.sqlite")
    with conn:  # As version 1 would have it: the extent crosses the border of a window.
        conn.execute("UPDATE extent SET start = ?", (WINDOW_BYTES - 40_000,))
        conn.execute("UPDATE meta SET value = 1 WHERE key = 'version'")
        conn.execute("DELETE FROM meta WHERE key = 'applied'")
        conn.execute("DROP INDEX blob_place")
    conn.close()

    store = open_store(tmp_path / "s")

    extents = store.meta.extents(made.ino, 0, WINDOW_BYTES + 60_000)
    assert [(e.start, e.length) for e in extents] == [
        (WINDOW_BYTES - 40_000, 40_000),
        (WINDOW_BYTES, 60_000),
    ]
    assert content(store, made.ino)[WINDOW_BYTES - 40_000 :] == data
    store.meta.setattr(made.ino, Change(size=WINDOW_BYTES))
    store.flush()
    assert store.blobs.get(ref) == data
    store.close()
