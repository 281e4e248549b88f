"""Attributes, extents and blobs, over every combination of metadata store and blob store."""

import os
import stat

import pytest

from nexusfs.contracts.errors import (
    NoDataError,
    NoSpaceError,
    TooBigError,
)
from nexusfs.contracts.node import Change
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, Extent, Store
from tests.contract.stores import (
    FILE,
    Reopenable,
    blob,
    blob_extent,
    errno_name,
    is_gone,
    spans,
)

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


def test_an_extended_attribute_that_has_its_value_already_moves_no_ctime(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"f", FILE)
    store.meta.setxattr(made.ino, b"user.a", b"")
    before = store.meta.getattr(made.ino).ctime_ns
    store.meta.setxattr(made.ino, b"user.a", b"")
    same = store.meta.getattr(made.ino).ctime_ns
    store.meta.setxattr(made.ino, b"user.a", b"1")

    assert before == same < store.meta.getattr(made.ino).ctime_ns


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
        store.meta.write(made.ino, [blob_extent(store, start, b"abcd")])

    after = store.meta.write(made.ino, [blob_extent(store, 2, b"12345678")])

    assert spans(store, made.ino) == [(0, 2), (2, 10), (10, 12)]
    assert after.size == 12


def test_inline_extents_that_touch_become_one(opened: Reopenable) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    for start in (0, 8, 4):
        store.meta.write(made.ino, [Extent(start, 4, b"%04d" % start)])
    store.meta.write(made.ino, [Extent(2, 8, b"abcdefgh")])

    found = [opened.store.meta.extents(made.ino, 0, 12)]
    found.append(opened.reopen().meta.extents(made.ino, 0, 12))

    assert found == [[Extent(0, 12, b"00abcdefgh08")]] * 2


def test_a_flush_makes_one_blob_of_small_writes_that_follow_each_other(opened: Reopenable) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    for at in range(0, 300_000, 1000):
        store.meta.write(made.ino, [Extent(at, 1000, b"%01000d" % at)])

    store.flush()

    (extent,) = opened.reopen().meta.extents(made.ino, 0, 300_000)
    assert extent.blob is not None and extent.length == extent.blob.size == 300_000
    data = opened.store.blobs.get(extent.blob)
    assert data == b"".join(b"%01000d" % at for at in range(0, 300_000, 1000))


@pytest.mark.parametrize("flush", [True, False])
def test_a_file_is_cut_at_the_borders_of_its_windows_and_reads_as_written(
    opened: Reopenable, flush: bool
) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    data = os.urandom(3 << 20)
    for start in (0, 3 << 20, 6 << 20):
        store.meta.write(made.ino, [blob_extent(store, start, data)])
    if flush:
        store.flush()
    store.meta.setattr(made.ino, Change(size=(8 << 20) + 5))

    extents = opened.reopen().meta.extents(made.ino, 0, SIZE_MAX)

    assert [(e.start >> 20, e.length) for e in extents] == [
        (0, 3 << 20), (3, 1 << 20), (4, 2 << 20), (6, 2 << 20), (8, 5)
    ]  # fmt: skip
    content = b"".join(
        opened.store.blobs.get(e.blob)[e.offset : e.offset + e.length] for e in extents if e.blob
    )
    assert content == (data * 3)[: (8 << 20) + 5]


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


def test_a_blob_is_deleted_when_its_last_extent_has_gone(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.write(made.ino, [Extent(50, 10, b"y" * 10)])  # Splits: two names.
    store.meta.setattr(made.ino, Change(size=20))
    store.flush()
    assert store.blobs.get(ref) == b"x" * 20_000

    store.meta.unlink(ROOT_INO, b"a")
    store.flush()

    assert is_gone(store, ref)


def test_a_blob_of_two_files_lives_until_both_are_gone(store: Store) -> None:
    ref = blob(store, b"same" * 5000)
    for name in (b"a", b"b"):
        made = store.meta.create(ROOT_INO, name, FILE)
        store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])

    store.meta.unlink(ROOT_INO, b"a")
    store.flush()
    assert store.blobs.get(ref) == b"same" * 5000
    store.meta.unlink(ROOT_INO, b"b")
    store.flush()

    assert is_gone(store, ref)


def test_a_blob_that_nothing_named_by_the_next_flush_is_deleted(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.unlink(ROOT_INO, b"a")

    store.flush()

    assert is_gone(store, ref)


def test_a_blob_is_named_again_before_a_flush_begins_and_is_kept(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.setattr(made.ino, Change(size=0))

    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.flush()

    assert store.blobs.get(ref) == b"x" * 20_000
    assert store.meta.find_blob(ref.digest, ref.algorithm) == ref


@pytest.mark.parametrize("flushes", [0, 1, 2])
def test_the_same_bytes_written_after_a_reopen_are_put_anew(
    opened: Reopenable, flushes: int
) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.setattr(made.ino, Change(size=0))

    store = opened.reopen()
    for n in range(flushes):
        store.meta.touch(ROOT_INO, n)
        store.flush()

    assert is_gone(store, ref)
    again = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, again)])
    for n in range(2):
        store.meta.touch(ROOT_INO, n)
        store.flush()
    assert opened.reopen().meta.extents(made.ino, 0, 20_000)[0].blob == again
    assert opened.store.blobs.get(again) == b"x" * 20_000


def test_the_same_bytes_written_while_the_row_of_their_blob_is_deleted_are_put_anew(
    opened: Reopenable,
) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.flush()
    store.meta.setattr(made.ino, Change(size=0))
    store.flush()
    round_ = store.begin_flush()
    round_.seal()
    round_.take()

    found = store.meta.find_blob(ref.digest, ref.algorithm)
    round_.write()
    round_.end()

    assert found is None
    assert is_gone(store, ref)


def test_the_same_bytes_written_while_their_blob_is_deleted_are_put_anew(
    opened: Reopenable,
) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.setattr(made.ino, Change(size=0))
    round_ = store.begin_flush()
    round_.seal()
    round_.take()

    assert store.meta.find_blob(ref.digest, ref.algorithm) is None
    again = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, again)])
    round_.write()
    round_.end()
    store.flush()

    (extent,) = opened.reopen().meta.extents(made.ino, 0, 20_000)
    assert extent.blob == again
    assert opened.store.blobs.get(again) == b"x" * 20_000


def test_dead_blobs_are_found_again_after_a_reopen(opened: Reopenable) -> None:
    store = opened.store
    made = store.meta.create(ROOT_INO, b"a", FILE)
    ref = blob(store, b"x" * 20_000)
    store.meta.write(made.ino, [Extent(0, 20_000, None, ref)])
    store.meta.unlink(ROOT_INO, b"a", {made.ino})

    store = opened.reopen()
    store.flush()

    assert is_gone(store, ref)


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

    with pytest.raises(NoSpaceError):
        for n in range(1000):
            store.meta.setxattr(made.ino, b"user.%0200d" % n, b"")
    count = len(store.meta.listxattr(made.ino))
    after = store.meta.getattr(made.ino)
    with pytest.raises(NoSpaceError):
        store.meta.setxattr(made.ino, b"user.%0200d" % 5000, b"")

    assert 300 < count < 330 and after.ctime_ns > before.ctime_ns
    assert store.meta.getattr(made.ino) == after
    assert len(store.meta.listxattr(made.ino)) == count
