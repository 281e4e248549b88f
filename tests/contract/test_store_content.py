"""Attributes, extents and blobs, over every combination of metadata store and blob store."""

import os
import stat

import pytest

from nexusfs.contracts.errors import (
    CorruptError,
    KernelError,
    NoDataError,
    TooBigError,
)
from nexusfs.contracts.node import Change
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, Extent, Store
from tests.contract.stores import FILE, Reopenable, blob, blob_extent, errno_name, spans

# Attributes


def test_setattr_sets_only_what_is_given(opened: Reopenable) -> None:
    made = opened.store.meta.create(ROOT_INO, b"a", FILE)
    opened.store.meta.setattr(made.ino, Change(mode=0o4711, atime_ns=5, mtime_ns=6))

    after = opened.reopen().meta.getattr(made.ino)

    assert (after.mode, after.uid) == (stat.S_IFREG | 0o4711, 7)
    assert (after.atime_ns, after.mtime_ns) == (5, 6)
    assert after.ctime_ns > made.ctime_ns


def test_growing_a_file_leaves_a_hole(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)

    after = store.meta.setattr(made.ino, Change(size=1 << 40))

    assert (after.size, after.blocks) == (1 << 40, 0)


def test_a_size_over_the_limit_is_efbig(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)

    assert (
        errno_name(lambda: store.meta.setattr(made.ino, Change(size=SIZE_MAX + 1))) is TooBigError
    )


def test_touch_is_seen_at_once_and_after_a_reopen(opened: Reopenable) -> None:
    made = opened.store.meta.create(ROOT_INO, b"a", FILE)
    opened.store.meta.touch(made.ino, 123)

    assert opened.store.meta.getattr(made.ino).atime_ns == 123
    assert opened.reopen().meta.getattr(made.ino).atime_ns == 123


def test_extended_attributes_are_kept(opened: Reopenable) -> None:
    made = opened.store.meta.create(ROOT_INO, b"a", FILE)
    opened.store.meta.setxattr(made.ino, b"user.b", b"2")
    opened.store.meta.setxattr(made.ino, b"user.a", b"1")
    opened.store.meta.setxattr(made.ino, b"user.a", b"3")

    meta = opened.reopen().meta

    assert meta.listxattr(made.ino) == [b"user.a", b"user.b"]
    assert meta.getxattr(made.ino, b"user.a") == b"3"


def test_an_extended_attribute_that_is_removed_is_enodata(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.setxattr(made.ino, b"user.a", b"1")
    store.meta.removexattr(made.ino, b"user.a")

    assert errno_name(lambda: store.meta.getxattr(made.ino, b"user.a")) is NoDataError
    assert errno_name(lambda: store.meta.removexattr(made.ino, b"user.a")) is NoDataError


# Extents and blobs


def test_a_write_inside_an_inline_extent_splits_it(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.write(made.ino, [Extent(0, 9, b"abcdefghi")])

    store.meta.write(made.ino, [blob_extent(store, 3, b"XYZ")])

    assert spans(store, made.ino) == [(0, 3), (3, 6), (6, 9)]
    extents = store.meta.extents(made.ino, 0, 9)
    assert (extents[0].data, extents[2].data) == (b"abc", b"ghi")


def test_a_write_over_several_extents_replaces_them(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    for start in (0, 4, 8):
        store.meta.write(made.ino, [Extent(start, 4, b"abcd")])

    after = store.meta.write(made.ino, [Extent(2, 8, b"12345678")])

    assert spans(store, made.ino) == [(0, 2), (2, 10), (10, 12)]
    assert after.size == 12


def test_extents_are_found_from_any_offset_inside(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.write(made.ino, [Extent(0, 4, b"abcd")])
    store.meta.write(made.ino, [Extent(10, 4, b"efgh")])

    found = [
        [e.start for e in store.meta.extents(made.ino, start, start + 1)]
        for start in (0, 3, 4, 9, 10, 13, 14)
    ]

    assert found == [[0], [0], [], [], [10], [10], []]


def test_cutting_a_file_drops_and_shortens_extents(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.write(made.ino, [blob_extent(store, 0, b"x" * 100), Extent(100, 4, b"abcd")])

    after = store.meta.setattr(made.ino, Change(size=50))

    assert spans(store, made.ino) == [(0, 50)]
    assert (after.size, after.blocks) == (50, 8)


def test_a_blob_is_dead_when_its_last_extent_goes(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 100)
    store.meta.write(made.ino, [Extent(0, 100, None, ref)])
    store.meta.write(made.ino, [Extent(50, 10, b"y" * 10)])  # Splits: two names.
    store.meta.setattr(made.ino, Change(size=20))
    alive = store.meta.take_dead()

    store.meta.unlink(ROOT_INO, b"a")

    assert alive == []
    assert store.meta.take_dead() == [ref]


def test_a_blob_of_two_files_lives_until_both_are_gone(store: Store) -> None:
    for name in (b"a", b"b"):
        made = store.meta.create(ROOT_INO, name, FILE)
        store.meta.write(made.ino, [blob_extent(store, 0, b"same")])

    store.meta.unlink(ROOT_INO, b"a")
    alive = store.meta.take_dead()
    store.meta.unlink(ROOT_INO, b"b")

    assert alive == []
    assert len(store.meta.take_dead()) == 1


def test_a_synced_store_has_deleted_dead_blobs(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 5000)
    store.meta.write(made.ino, [Extent(0, 5000, None, ref)])
    store.meta.unlink(ROOT_INO, b"a")

    store.sync()

    assert store.meta.find_blob(ref.digest, ref.algorithm) is None
    with pytest.raises(CorruptError):
        store.blobs.get(ref)


def test_a_blob_revived_during_a_sync_is_kept(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 5000)
    store.meta.write(made.ino, [Extent(0, 5000, None, ref)])
    store.meta.setattr(made.ino, Change(size=0))
    ticket = store.begin_sync()
    ticket.wait()

    store.meta.write(made.ino, [Extent(0, 5000, None, ref)])
    store.end_sync(ticket)

    assert store.blobs.get(ref) == b"x" * 5000
    assert store.meta.find_blob(ref.digest, ref.algorithm) == ref


def test_dead_blobs_are_found_again_after_a_reopen(opened: Reopenable) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 5000)
    store.meta.write(made.ino, [Extent(0, 5000, None, ref)])
    store.meta.unlink(ROOT_INO, b"a", {made.ino})

    store = opened.reopen()
    store.sync()

    assert store.meta.find_blob(ref.digest, ref.algorithm) is None


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) + 1])
def test_a_blob_reads_back_as_written(opened: Reopenable, size: int) -> None:
    data = os.urandom(size)
    ref = blob(opened.store, data)

    assert opened.store.blobs.get(ref) == data
    assert opened.reopen().blobs.get(ref) == data


def test_deleting_a_blob_twice_is_no_error(store: Store) -> None:
    ref = blob(store, b"x")

    store.blobs.delete(ref)
    store.blobs.delete(ref)


def test_a_failed_transaction_changes_nothing(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    before = store.meta.getattr(made.ino)

    with pytest.raises(KernelError):
        store.meta.setxattr(made.ino, b"user.n", None)  # type: ignore[arg-type] # fails in SQL

    assert store.meta.getattr(made.ino) == before
    assert store.meta.listxattr(made.ino) == []
