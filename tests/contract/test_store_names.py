"""Names and renames, over every combination of metadata store and blob store."""

import os
import stat

import pytest

from nexusfs.contracts.errors import (
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    StaleError,
)
from nexusfs.contracts.node import RENAME_EXCHANGE, RENAME_NOREPLACE, NewNode
from nexusfs.contracts.store import ROOT_INO, Store
from tests.contract.stores import DIR, FILE, Reopenable, errno_name

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
