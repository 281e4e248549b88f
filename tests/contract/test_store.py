"""One suite over every combination of metadata store and blob store."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexusfs.contracts.errors import (
    CorruptError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    KernelError,
    NoDataError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    StaleError,
    TooBigError,
)
from nexusfs.contracts.node import RENAME_EXCHANGE, RENAME_NOREPLACE, Change, NewNode
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, BlobRef, Extent, Store, digest_of
from nexusfs.drivers.blob_memory import MemoryBlobs
from nexusfs.drivers.store_local import LocalStore

FILE = NewNode(stat.S_IFREG | 0o644, 7, 8)
DIR = NewNode(stat.S_IFDIR | 0o755, 7, 8)


class Reopenable:
    """A store that can be closed and opened again."""

    def __init__(self, open_: Callable[[], Store]) -> None:
        self._open = open_
        self.store = open_()

    def reopen(self) -> Store:
        self.store.close()
        self.store = self._open()
        return self.store


@pytest.fixture(params=["sqlite+local", "sqlite+memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopenable]:
    memory = MemoryBlobs() if request.param == "sqlite+memory" else None
    opened = Reopenable(lambda: LocalStore(tmp_path / "store", blobs=memory))
    yield opened
    opened.store.close()


@pytest.fixture
def store(opened: Reopenable) -> Store:
    return opened.store


def blob(store: Store, data: bytes) -> BlobRef:
    return store.blobs.put(digest_of(store.blobs.algorithm, data), data)


def blob_extent(store: Store, start: int, data: bytes) -> Extent:
    return Extent(start, len(data), None, blob(store, data))


def spans(store: Store, ino: int) -> list[tuple[int, int]]:
    return [(e.start, e.stop) for e in store.meta.extents(ino, 0, SIZE_MAX)]


def errno_name(call: Callable[[], object]) -> type[KernelError]:
    with pytest.raises(KernelError) as caught:
        call()
    return type(caught.value)


# Names


def test_the_root_is_a_directory_with_inode_one(store: Store) -> None:
    root = store.meta.getattr(ROOT_INO)

    assert (root.ino, root.is_dir, root.nlink) == (1, True, 2)


def test_a_created_file_is_found_by_name(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)

    assert store.meta.lookup(ROOT_INO, b"a") == made.ino
    assert (made.mode, made.uid, made.gid, made.nlink) == (FILE.mode, 7, 8, 1)


def test_a_created_file_is_there_after_a_reopen(opened: Reopenable) -> None:
    made = opened.store.meta.create(ROOT_INO, b"a", FILE)

    meta = opened.reopen().meta

    assert meta.getattr(meta.lookup(ROOT_INO, b"a")) == made


def test_inode_numbers_are_not_reused_after_a_reopen(opened: Reopenable) -> None:
    first = opened.store.meta.create(ROOT_INO, b"a", FILE)
    opened.store.meta.unlink(ROOT_INO, b"a")

    second = opened.reopen().meta.create(ROOT_INO, b"a", FILE)

    assert second.ino > first.ino


def test_a_name_that_is_taken_is_eexist(store: Store) -> None:
    store.meta.create(ROOT_INO, b"a", FILE)

    assert errno_name(lambda: store.meta.create(ROOT_INO, b"a", DIR)) is ExistsError


def test_an_unknown_name_is_enoent(store: Store) -> None:
    assert errno_name(lambda: store.meta.lookup(ROOT_INO, b"a")) is NotFoundError


def test_a_name_below_a_file_is_enotdir(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)

    assert errno_name(lambda: store.meta.lookup(made.ino, b"b")) is NotDirectoryError
    assert errno_name(lambda: store.meta.create(made.ino, b"b", FILE)) is NotDirectoryError


def test_entries_are_listed_by_name_with_their_kind(store: Store) -> None:
    made = [store.meta.create(ROOT_INO, b"b", DIR), store.meta.create(ROOT_INO, b"a", FILE)]

    entries = store.meta.readdir(ROOT_INO)

    assert [(e.name, e.ino, e.kind) for e in entries] == [
        (b"a", made[1].ino, stat.S_IFREG),
        (b"b", made[0].ino, stat.S_IFDIR),
    ]


def test_a_subdirectory_counts_as_a_link_of_its_parent(store: Store) -> None:
    store.meta.create(ROOT_INO, b"d", DIR)
    during = store.meta.getattr(ROOT_INO).nlink
    store.meta.rmdir(ROOT_INO, b"d")

    assert (during, store.meta.getattr(ROOT_INO).nlink) == (3, 2)


def test_creating_and_removing_sets_the_parents_times(store: Store) -> None:
    before = store.meta.getattr(ROOT_INO)
    store.meta.create(ROOT_INO, b"a", FILE)
    created = store.meta.getattr(ROOT_INO)
    store.meta.unlink(ROOT_INO, b"a")
    removed = store.meta.getattr(ROOT_INO)

    assert before.mtime_ns < created.mtime_ns < removed.mtime_ns
    assert removed.ctime_ns == removed.mtime_ns


def test_a_symlink_keeps_its_text(opened: Reopenable) -> None:
    link = NewNode(stat.S_IFLNK | 0o777, 0, 0, target=b"../x")
    made = opened.store.meta.create(ROOT_INO, b"l", link)

    assert opened.reopen().meta.readlink(made.ino) == b"../x"
    assert made.size == 4


def test_readlink_of_a_file_is_einval(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)

    assert errno_name(lambda: store.meta.readlink(made.ino)) is InvalidError


def test_a_device_keeps_its_number(opened: Reopenable) -> None:
    made = opened.store.meta.create(
        ROOT_INO, b"d", NewNode(stat.S_IFCHR | 0o600, 0, 0, rdev=os.makedev(1, 3))
    )

    assert opened.reopen().meta.getattr(made.ino).rdev == os.makedev(1, 3)


def test_a_hard_link_is_the_same_inode(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    linked = store.meta.link(ROOT_INO, b"b", made.ino)

    assert store.meta.lookup(ROOT_INO, b"b") == made.ino
    assert linked.nlink == 2
    assert linked.ctime_ns > made.ctime_ns


def test_linking_a_directory_is_eperm(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"d", DIR)

    assert errno_name(lambda: store.meta.link(ROOT_INO, b"e", made.ino)) is NotPermittedError


def test_unlink_takes_one_link_away(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.link(ROOT_INO, b"b", made.ino)

    left = store.meta.unlink(ROOT_INO, b"a")

    assert left.nlink == 1
    assert store.meta.getattr(made.ino) == left


def test_the_last_unlink_erases_the_inode(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)

    assert store.meta.unlink(ROOT_INO, b"a").nlink == 0
    assert errno_name(lambda: store.meta.getattr(made.ino)) is StaleError


def test_a_held_inode_lives_without_links_until_it_is_freed(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.unlink(ROOT_INO, b"a", {made.ino})
    orphan = store.meta.getattr(made.ino)

    store.meta.free(made.ino)

    assert orphan.nlink == 0
    assert errno_name(lambda: store.meta.getattr(made.ino)) is StaleError


def test_orphans_are_erased_at_the_next_open(opened: Reopenable) -> None:
    made = opened.store.meta.create(ROOT_INO, b"a", FILE)
    opened.store.meta.unlink(ROOT_INO, b"a", {made.ino})

    meta = opened.reopen().meta

    assert errno_name(lambda: meta.getattr(made.ino)) is StaleError


def test_unlink_of_a_directory_is_eisdir(store: Store) -> None:
    store.meta.create(ROOT_INO, b"d", DIR)

    assert errno_name(lambda: store.meta.unlink(ROOT_INO, b"d")) is IsDirectoryError


def test_rmdir_of_a_file_is_enotdir(store: Store) -> None:
    store.meta.create(ROOT_INO, b"a", FILE)

    assert errno_name(lambda: store.meta.rmdir(ROOT_INO, b"a")) is NotDirectoryError


def test_rmdir_of_a_directory_with_entries_is_enotempty(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"d", DIR)
    store.meta.create(made.ino, b"a", FILE)

    assert errno_name(lambda: store.meta.rmdir(ROOT_INO, b"d")) is NotEmptyError


def test_creating_in_a_removed_directory_is_enoent(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"d", DIR)
    store.meta.rmdir(ROOT_INO, b"d")

    assert errno_name(lambda: store.meta.create(made.ino, b"a", FILE)) is NotFoundError


# Rename


def test_rename_moves_a_name_to_another_directory(opened: Reopenable) -> None:
    meta = opened.store.meta
    made = meta.create(ROOT_INO, b"a", FILE)
    directory = meta.create(ROOT_INO, b"d", DIR)

    meta.rename((ROOT_INO, b"a"), (directory.ino, b"b"))
    meta = opened.reopen().meta

    assert meta.lookup(directory.ino, b"b") == made.ino
    assert [e.name for e in meta.readdir(ROOT_INO)] == [b"d"]


def test_rename_replaces_a_file_and_erases_it(store: Store) -> None:
    moved = store.meta.create(ROOT_INO, b"a", FILE)
    replaced = store.meta.create(ROOT_INO, b"b", FILE)

    left = store.meta.rename((ROOT_INO, b"a"), (ROOT_INO, b"b"))

    assert left is not None
    assert (left.ino, left.nlink) == (replaced.ino, 0)
    assert store.meta.lookup(ROOT_INO, b"b") == moved.ino


def test_rename_over_an_empty_directory_replaces_it(store: Store) -> None:
    moved = store.meta.create(ROOT_INO, b"d", DIR)
    store.meta.create(ROOT_INO, b"e", DIR)

    store.meta.rename((ROOT_INO, b"d"), (ROOT_INO, b"e"))

    assert store.meta.lookup(ROOT_INO, b"e") == moved.ino
    assert store.meta.getattr(ROOT_INO).nlink == 3


def test_rename_over_nonempty_directory_is_enotempty(store: Store) -> None:
    store.meta.create(ROOT_INO, b"d", DIR)
    full = store.meta.create(ROOT_INO, b"e", DIR)
    store.meta.create(full.ino, b"a", FILE)

    call = lambda: store.meta.rename((ROOT_INO, b"d"), (ROOT_INO, b"e"))  # noqa: E731 - one line

    assert errno_name(call) is NotEmptyError


def test_rename_of_a_directory_below_itself_is_einval(store: Store) -> None:
    top = store.meta.create(ROOT_INO, b"d", DIR)
    below = store.meta.create(top.ino, b"e", DIR)

    for parent in (top.ino, below.ino):
        call = lambda p=parent: store.meta.rename((ROOT_INO, b"d"), (p, b"x"))  # noqa: E731
        assert errno_name(call) is InvalidError


def test_rename_between_two_names_of_one_inode_changes_nothing(store: Store) -> None:
    made = store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.link(ROOT_INO, b"b", made.ino)

    store.meta.rename((ROOT_INO, b"a"), (ROOT_INO, b"b"))

    assert [e.name for e in store.meta.readdir(ROOT_INO)] == [b"a", b"b"]


def test_rename_noreplace_over_a_name_is_eexist(store: Store) -> None:
    store.meta.create(ROOT_INO, b"a", FILE)
    store.meta.create(ROOT_INO, b"b", FILE)

    with pytest.raises(ExistsError):
        store.meta.rename((ROOT_INO, b"a"), (ROOT_INO, b"b"), RENAME_NOREPLACE)


def test_rename_exchange_swaps_a_file_and_a_directory(opened: Reopenable) -> None:
    meta = opened.store.meta
    one, two = meta.create(ROOT_INO, b"1", DIR), meta.create(ROOT_INO, b"2", DIR)
    file, directory = meta.create(one.ino, b"f", FILE), meta.create(two.ino, b"d", DIR)

    meta.rename((one.ino, b"f"), (two.ino, b"d"), RENAME_EXCHANGE)
    meta = opened.reopen().meta

    assert (meta.lookup(one.ino, b"f"), meta.lookup(two.ino, b"d")) == (directory.ino, file.ino)
    assert (meta.getattr(one.ino).nlink, meta.getattr(two.ino).nlink) == (3, 2)


def test_rename_exchange_with_nothing_is_enoent(store: Store) -> None:
    store.meta.create(ROOT_INO, b"a", FILE)

    with pytest.raises(NotFoundError):
        store.meta.rename((ROOT_INO, b"a"), (ROOT_INO, b"b"), RENAME_EXCHANGE)


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
