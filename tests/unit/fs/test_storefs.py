"""Ordinary files, node by node."""

import gc
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.errors import (
    BadFileError,
    CrossDeviceError,
    InvalidError,
    IsDirectoryError,
    NameTooLongError,
    NoDataError,
    NoSpaceError,
    NotPermittedError,
    RangeError,
    StaleError,
    TooBigError,
    UnavailableError,
)
from nexusfs.contracts.node import Change, File, NewNode, Node
from nexusfs.contracts.store import SIZE_MAX
from nexusfs.drivers.store_local import LocalStore, open_store
from nexusfs.fs.storefs import StoreFile, StoreFS, StoreNode

FILE = NewNode(stat.S_IFREG | 0o644, 7, 8)
DIR = NewNode(stat.S_IFDIR | 0o755, 7, 8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = open_store(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def fs(store: LocalStore) -> StoreFS:
    return StoreFS(store)


async def opened(fs: StoreFS, flags: int = os.O_RDWR, name: bytes = b"f") -> StoreFile:
    node = await fs.root.create(name, FILE)
    return await node.open(KERNEL_CRED, flags)


def extents(file: File) -> int:
    assert isinstance(file.node, StoreNode)
    return len(file.node.fs.meta.extents(file.node.ino, 0, SIZE_MAX))


async def test_what_is_written_is_read(fs: StoreFS) -> None:
    file = await opened(fs)

    assert await file.write(b"hello", 0) == 5
    assert await file.read(100, 1) == b"ello"
    assert await file.read(100, 5) == b""


@pytest.mark.parametrize("size", [1, 4095, 4096, 200_000, (1 << 20) + 1, (9 << 20) + 5])
async def test_content_of_any_size_is_there_after_a_reopen(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    store = open_store(tmp_path / "s")
    await (await opened(StoreFS(store))).write(data, 0)
    store.close()

    store = open_store(tmp_path / "s")
    node = await StoreFS(store).root.lookup(KERNEL_CRED, b"f")
    found = await (await node.open(KERNEL_CRED, os.O_RDONLY)).read(size + 1, 0)
    store.close()

    assert found == data


async def test_gaps_read_as_zeros_and_take_no_blocks(fs: StoreFS) -> None:
    file = await opened(fs)

    await file.write(b"end", 1 << 40)

    assert (await file.node.stat()).size == (1 << 40) + 3
    assert (await file.node.stat()).blocks == 8
    assert await file.read(4, (1 << 40) - 2) == b"\0\0en"
    assert await file.read(3, 500) == b"\0\0\0"


async def test_append_writes_at_the_end_whatever_the_offset(fs: StoreFS) -> None:
    file = await opened(fs, os.O_RDWR | os.O_APPEND)

    for line in (b"a\n", b"b\n"):
        await file.write(line, 0)

    assert await file.read(10, 0) == b"a\nb\n"


async def test_small_appends_share_extents(fs: StoreFS) -> None:
    file = await opened(fs, os.O_RDWR | os.O_APPEND)
    lines = [b"%099d\n" % n for n in range(500)]

    for line in lines:
        await file.write(line, 0)

    assert extents(file) <= 13
    assert await file.read(1 << 20, 0) == b"".join(lines)


async def test_a_write_in_the_middle_of_a_large_file_leaves_the_rest(fs: StoreFS) -> None:
    data = bytearray(os.urandom(1_000_000))
    file = await opened(fs)
    await file.write(bytes(data), 0)

    for offset, piece in ((500_000, b"x" * 10), (499_990, b"y" * 15), (100, b"z" * 5000)):
        await file.write(piece, offset)
        data[offset : offset + len(piece)] = piece

    assert await file.read(1 << 20, 0) == bytes(data)
    assert (await file.node.stat()).size == 1_000_000


async def test_the_same_content_twice_is_stored_once(fs: StoreFS, store: LocalStore) -> None:
    data = os.urandom(500_000)
    for name in (b"a", b"b"):
        await (await opened(fs, name=name)).write(data, 0)

    segment = store.directory / "blobs" / "00000001.seg"

    assert segment.stat().st_size < 600_000


async def test_truncation_cuts_and_growth_gives_zeros(fs: StoreFS) -> None:
    file = await opened(fs)
    await file.write(b"abcdef", 0)

    await file.node.setattr(Change(size=3))
    await file.node.setattr(Change(size=5))

    assert await file.read(10, 0) == b"abc\0\0"


async def test_o_trunc_empties_the_file(fs: StoreFS) -> None:
    file = await opened(fs)
    await file.write(b"abc", 0)

    await fs.node(file.node.ino).open(KERNEL_CRED, os.O_WRONLY | os.O_TRUNC)

    assert await file.read(10, 0) == b""


async def test_reading_a_write_only_handle_is_ebadf(fs: StoreFS) -> None:
    file = await opened(fs, os.O_WRONLY)

    with pytest.raises(BadFileError):
        await file.read(1, 0)


async def test_writing_a_read_only_handle_is_ebadf(fs: StoreFS) -> None:
    file = await opened(fs, os.O_RDONLY)

    with pytest.raises(BadFileError):
        await file.write(b"x", 0)


async def test_a_write_past_the_largest_size_is_efbig(fs: StoreFS) -> None:
    file = await opened(fs)

    with pytest.raises(TooBigError):
        await file.write(b"xx", SIZE_MAX - 1)

    assert await file.write(b"x", SIZE_MAX - 1) == 1


async def test_an_unlinked_file_lives_until_its_last_release(fs: StoreFS) -> None:
    first = await opened(fs)
    node = fs.node(first.node.ino)
    second = await node.open(KERNEL_CRED, os.O_RDONLY)
    await first.write(b"abc", 0)
    await fs.root.unlink(b"f")
    await first.release()

    assert await second.read(3, 0) == b"abc"
    assert (await node.stat()).nlink == 0
    await second.release()
    with pytest.raises(StaleError):
        await node.open(KERNEL_CRED, os.O_RDONLY)


async def test_a_node_that_is_held_answers_stat_after_removal(fs: StoreFS) -> None:
    file, directory = await fs.root.create(b"f", FILE), await fs.root.create(b"d", DIR)

    await fs.root.unlink(b"f")
    await fs.root.rmdir(b"d")

    assert (await file.stat()).nlink == 0
    assert (await directory.stat()).nlink == 0
    assert await directory.entries(KERNEL_CRED) == []


async def test_a_replaced_open_file_lives_on(fs: StoreFS) -> None:
    old = await opened(fs, name=b"old")
    await old.write(b"old", 0)
    await (await opened(fs, name=b"new")).write(b"new", 0)

    await fs.root.rename(b"new", fs.root, b"old", 0)

    assert await old.read(3, 0) == b"old"
    found = await fs.root.lookup(KERNEL_CRED, b"old")
    assert await (await found.open(KERNEL_CRED, os.O_RDONLY)).read(3, 0) == b"new"


async def test_a_node_is_the_same_object_while_it_is_held(fs: StoreFS) -> None:
    made = await fs.root.create(b"f", FILE)
    held = await fs.root.lookup(KERNEL_CRED, b"f")
    del made
    gc.collect()

    assert await fs.root.lookup(KERNEL_CRED, b"f") is held


async def test_nodes_are_no_control_files_and_keep_the_given_lifetimes(store: LocalStore) -> None:
    root = StoreFS(store, entry_ttl_s=5, attr_ttl_s=6).root

    assert (root.control, root.entry_ttl_s, root.attr_ttl_s, root.ino) == (False, 5, 6, 1)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
async def test_a_name_that_is_none_is_einval(fs: StoreFS, name: bytes) -> None:
    with pytest.raises(InvalidError):
        await fs.root.create(name, FILE)
    with pytest.raises(InvalidError):
        await fs.root.rmdir(name)


async def test_a_name_over_255_bytes_is_enametoolong(fs: StoreFS) -> None:
    await fs.root.create(b"n" * 255, FILE)

    with pytest.raises(NameTooLongError):
        await fs.root.create(b"n" * 256, FILE)


async def test_a_symlink_keeps_its_text(fs: StoreFS) -> None:
    node = await fs.root.create(b"l", NewNode(stat.S_IFLNK | 0o777, 0, 0, target=b"/a/b"))

    assert await node.readlink(KERNEL_CRED) == b"/a/b"
    assert (await node.stat()).size == 4


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK])
async def test_special_files_are_inodes(fs: StoreFS, kind: int) -> None:
    node = await fs.root.create(b"s", NewNode(kind | 0o600, 0, 0, rdev=5))

    assert (await node.stat()).mode == kind | 0o600
    with pytest.raises(InvalidError):
        await node.open(KERNEL_CRED, os.O_RDONLY)


async def test_opening_a_directory_is_eisdir(fs: StoreFS) -> None:
    with pytest.raises(IsDirectoryError):
        await fs.root.open(KERNEL_CRED, os.O_RDONLY)


async def test_a_link_from_another_filesystem_is_exdev(fs: StoreFS) -> None:
    with pytest.raises(CrossDeviceError):
        await fs.root.link(b"x", Node())


async def test_a_write_sets_mtime_and_ctime(fs: StoreFS) -> None:
    file = await opened(fs)
    before = await file.node.stat()

    await file.write(b"x", 0)
    after = await file.node.stat()

    assert before.mtime_ns < after.mtime_ns == after.ctime_ns


async def test_the_first_read_after_a_write_sets_atime_and_the_next_does_not(fs: StoreFS) -> None:
    file = await opened(fs)
    await file.write(b"x", 0)

    await file.read(1, 0)
    first = await file.node.stat()
    await file.read(1, 0)
    second = await file.node.stat()

    assert first.atime_ns > first.mtime_ns
    assert second == first


async def test_extended_attributes_of_files_and_directories(fs: StoreFS) -> None:
    for node in (await fs.root.create(b"f", FILE), fs.root):
        await node.setxattr(b"user.a", b"1")

        assert await node.getxattr(b"user.a") == b"1"
        assert await node.listxattr() == [b"user.a"]
        await node.removexattr(b"user.a")
        with pytest.raises(NoDataError):
            await node.getxattr(b"user.a")


async def test_extended_attributes_have_limits(fs: StoreFS) -> None:
    node = await fs.root.create(b"f", FILE)
    await node.setxattr(b"user.big", b"x" * 65_536)

    with pytest.raises(NoSpaceError):
        await node.setxattr(b"user.a", b"x" * 65_537)
    with pytest.raises(RangeError):
        await node.setxattr(b"user." + b"n" * 251, b"")
    with pytest.raises(UnavailableError):
        await node.setxattr(b"security.capability", b"")
    with pytest.raises(NoDataError):
        await node.getxattr(b"security.capability")


async def test_a_fifo_has_no_user_attributes(fs: StoreFS) -> None:
    node = await fs.root.create(b"p", NewNode(stat.S_IFIFO | 0o600, 0, 0))

    with pytest.raises(NotPermittedError):
        await node.setxattr(b"user.a", b"")


async def test_statfs_is_that_of_the_disk(fs: StoreFS, store: LocalStore) -> None:
    host = os.statvfs(store.directory)

    found = await fs.root.statfs()

    assert (found.blocks, found.bsize) == (host.f_blocks, host.f_frsize)


async def test_fsync_of_many_tasks_shares_rounds(fs: StoreFS, store: LocalStore) -> None:
    rounds = 0
    begin = store.begin_sync

    def counted() -> object:
        nonlocal rounds
        rounds += 1
        return begin()

    store.begin_sync = counted  # type: ignore[method-assign,assignment] # counts, then the same
    files = [await opened(fs, name=b"%d" % n) for n in range(8)]

    async def write(file: File) -> None:
        await file.write(b"x" * 5000, 0)
        await file.fsync(datasync=True)

    async with trio.open_nursery() as nursery:
        for file in files:
            nursery.start_soon(write, file)
    del store.begin_sync

    assert 1 <= rounds <= 3


async def test_o_sync_writes_are_synced(fs: StoreFS, store: LocalStore) -> None:
    file = await opened(fs, os.O_WRONLY | os.O_SYNC)
    await file.write(b"x", 0)
    before = len(os.listdir("/proc/self/fd"))

    ticket = store.begin_sync()

    assert len(os.listdir("/proc/self/fd")) == before  # Nothing was left to sync.
    store.end_sync(ticket)


async def test_a_release_that_fails_is_logged_and_silent(
    fs: StoreFS, caplog: pytest.LogCaptureFixture
) -> None:
    file = await opened(fs)
    fs.meta.unlink(1, b"f")  # Behind the filesystem's back.

    with caplog.at_level(logging.WARNING):
        await file.release()

    assert "could not be freed" in caplog.text
