"""Large files and flushes, over every combination of metadata store and blob store."""

import os
from pathlib import Path

import pytest

from nexusfs.contracts.errors import NoSpaceError, StaleError
from nexusfs.contracts.store import ROOT_INO, BlobRef, Extent, Store
from nexusfs.drivers.blob_local import LocalBlobs
from nexusfs.drivers.meta_tables import Batch, MetaTables
from nexusfs.drivers.store_local import LocalStore
from nexusfs.fs.content import Content
from tests.contract.stores import FILE, Reopenable, blob, blob_extent, errno_name, is_gone

# Large files


def large_file(store: Store) -> tuple[int, list[BlobRef]]:
    made = store.meta.create(ROOT_INO, b"large", FILE)
    refs = [blob(store, bytes([n + 1]) * (1 << 20)) for n in range(40)]
    for n, ref in enumerate(refs):
        store.meta.write(made.ino, [Extent(n << 20, 1 << 20, None, ref)])
    return made.ino, refs


def test_a_large_file_that_is_removed_goes_piece_by_piece(store: Store) -> None:
    ino, refs = large_file(store)
    store.flush()

    store.meta.unlink(ROOT_INO, b"large")
    sizes = [store.meta.getattr(ino).size >> 20]
    while store.reap():
        sizes.append(store.meta.getattr(ino).size >> 20)
    store.flush()

    assert sizes == [40, 23, 6]
    assert store.meta.readdir(ROOT_INO) == []
    assert errno_name(lambda: store.meta.getattr(ino)) is StaleError
    assert all(is_gone(store, ref) for ref in refs)


def test_a_large_file_that_was_half_removed_goes_at_the_next_open(opened: Reopenable) -> None:
    store = opened.store
    ino, refs = large_file(store)
    store.meta.unlink(ROOT_INO, b"large")
    assert store.reap()

    store = opened.reopen()
    store.flush()

    assert errno_name(lambda: store.meta.getattr(ino)) is StaleError
    assert all(is_gone(store, ref) for ref in refs)


def test_a_large_file_that_is_replaced_or_closed_last_goes_too(store: Store) -> None:
    ino, refs = large_file(store)
    store.meta.create(ROOT_INO, b"small", FILE)
    store.meta.rename((ROOT_INO, b"small"), (ROOT_INO, b"large"), held={ino})
    assert not store.reap()

    store.meta.free(ino)
    store.flush()

    assert all(is_gone(store, ref) for ref in refs)


# Flushes


def test_what_changes_during_a_flush_is_kept_and_is_for_the_next(opened: Reopenable) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    gone = store.meta.create(ROOT_INO, b"gone", FILE)
    for ino in (made.ino, gone.ino):
        store.meta.write(ino, [Extent(0, 5000, b"a" * 5000)])
    store.meta.setxattr(made.ino, b"user.a", b"1")
    round_ = store.begin_flush()
    round_.seal()
    store.meta.write(made.ino, [Extent(10, 4, b"seal")])
    round_.take()
    store.meta.write(made.ino, [Extent(20, 4, b"take")])
    store.meta.unlink(ROOT_INO, b"gone")
    store.meta.setxattr(made.ino, b"user.a", b"2")
    store.meta.rename((ROOT_INO, b"a"), (ROOT_INO, b"b"))
    round_.write()
    store.meta.write(made.ino, [Extent(5000, 5, b"write")])
    round_.end()

    def look(store: Store) -> tuple[list[bytes], bytes, bytes]:
        names = [entry.name for entry in store.meta.readdir(ROOT_INO)]
        extents = store.meta.extents(made.ino, 0, 6000)
        data = b"".join(
            store.blobs.get(e.blob)[e.offset : e.offset + e.length] if e.blob else e.data or b""
            for e in extents
        )
        return names, data, store.meta.getxattr(made.ino, b"user.a")

    expected = bytearray(b"a" * 5000)
    expected[10:14], expected[20:24] = b"seal", b"take"
    assert look(store) == look(opened.reopen()) == ([b"b"], bytes(expected) + b"write", b"2")


def test_a_flush_that_fails_changes_nothing_and_the_next_one_stores_it(
    opened: Reopenable, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.write(made.ino, [Extent(0, 5000, b"a" * 5000)])
    round_ = store.begin_flush()
    round_.seal()
    round_.take()
    store.meta.write(made.ino, [Extent(0, 3, b"new")])

    def refuse(self: MetaTables, batch: Batch) -> None:
        raise NoSpaceError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(NoSpaceError):
        patch.setattr(MetaTables, "store", refuse)
        round_.write()
    round_.end()
    made_later = store.meta.create(ROOT_INO, b"b", FILE)
    store.flush()

    meta = opened.reopen().meta
    assert [e.ino for e in meta.readdir(ROOT_INO)] == [made.ino, made_later.ino]
    assert meta.getattr(made.ino).size == 5000


def test_a_round_that_was_left_in_the_middle_is_finished_by_the_next(opened: Reopenable) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    left = store.begin_flush()
    left.seal()
    left.take()
    store.meta.create(ROOT_INO, b"b", FILE)

    store.flush()
    left.write()
    left.end()

    assert opened.reopen().meta.lookup(ROOT_INO, b"a") == made.ino
    assert len(opened.store.meta.readdir(ROOT_INO)) == 2


def test_the_backlog_grows_with_changes_and_is_nothing_after_a_flush(store: Store) -> None:
    store.flush()
    before = store.backlog
    made = store.meta.create(ROOT_INO, b"a", FILE)
    for at in range(100):
        store.meta.write(made.ino, [Extent(at * 60_000, 60_000, bytes(60_000))])
    waiting = store.backlog

    store.flush()

    assert before == store.backlog == 0
    assert 0.1 < waiting < 0.3


def test_the_space_between_live_blobs_is_freed_by_flushes(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs", segment_bytes=1 << 20)
    store = LocalStore(tmp_path / "s", blobs=blobs)
    contents = [os.urandom(5000) for _ in range(400)]
    for n, data in enumerate(contents):
        made = store.meta.create(ROOT_INO, b"%03d" % n, FILE)
        store.meta.write(made.ino, [blob_extent(store, 0, data)])
    store.flush()
    for n in range(400):
        if n % 10:
            store.meta.unlink(ROOT_INO, b"%03d" % n)
    for n in range(4):
        store.meta.touch(ROOT_INO, n)
        store.flush()

    assert [path.name for path in (tmp_path / "blobs").glob("*.seg")] == ["00000003.seg"]
    left = [store.meta.extents(e.ino, 0, 5000)[0].blob for e in store.meta.readdir(ROOT_INO)]
    content = Content(store)
    kept = [
        content.read(e.ino, 0, 5000) for e in store.meta.readdir(ROOT_INO)
    ]  # by places that are stale
    assert kept == contents[::10] and len(left) == 40
    store.close()
    store = LocalStore(tmp_path / "s", blobs=LocalBlobs(tmp_path / "blobs"))
    assert [Content(store).read(e.ino, 0, 5000) for e in store.meta.readdir(ROOT_INO)] == kept
    store.close()
