"""POSIX's rules at the kernel's own door: system calls of several users over a StoreFS."""

import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    BusyError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    KernelError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    SymlinkLoopError,
)
from nexusfs.contracts.node import RENAME_EXCHANGE, RENAME_NOREPLACE, Change
from nexusfs.kernel.syscalls import Syscalls
from tests.kernel_fixture import ALICE, BOB, ROOT, booted

MEMBER = Credentials(1002, 1002, groups=frozenset({1000}))
WRITE = os.O_WRONLY
NEW = os.O_WRONLY | os.O_CREAT


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[Syscalls]:
    """System calls over a new store; /tmp is sticky and everybody's, /home Alice's alone."""
    async with booted(tmp_path / "store") as kernel:
        made = kernel.syscalls
        await made.sys_mkdir(ROOT, "/tmp", 0o777)
        await made.sys_setattr(ROOT, "/tmp", Change(mode=0o1777))
        await made.sys_mkdir(ROOT, "/home", 0o755)
        await made.sys_setattr(ROOT, "/home", Change(uid=1000, gid=1000))
        yield made


async def put(calls: Syscalls, cred: Credentials, path: str, mode: int = 0o644) -> None:
    """Makes a file with a few bytes and exactly this mode."""
    fd = (await calls.sys_open(cred, path, NEW, mode)).fd
    await calls.sys_write(fd, b"some bytes", 0)
    await calls.sys_close(fd)
    await calls.sys_setattr(cred, path, Change(mode=mode))


async def mode_of(calls: Syscalls, path: str) -> int:
    return stat.S_IMODE((await calls.sys_stat(ROOT, path)).mode)


# -- set-id bits


@pytest.mark.parametrize("cred", [ALICE, ROOT])
async def test_chown_takes_the_set_id_bits_whoever_does_it(
    calls: Syscalls, cred: Credentials
) -> None:
    await put(calls, ALICE, "/home/f", 0o6755)

    await calls.sys_setattr(cred, "/home/f", Change(gid=1000))

    assert await mode_of(calls, "/home/f") == 0o755


async def test_chown_leaves_the_set_id_bits_of_a_directory(calls: Syscalls) -> None:
    await calls.sys_mkdir(ALICE, "/home/d", 0o755)
    await calls.sys_setattr(ALICE, "/home/d", Change(mode=0o6755))

    await calls.sys_setattr(ROOT, "/home/d", Change(gid=7))

    assert await mode_of(calls, "/home/d") == 0o6755


async def test_a_write_by_another_user_takes_the_set_id_bits(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o6777)

    fd = (await calls.sys_open(BOB, "/tmp/f", WRITE)).fd
    await calls.sys_write(fd, b"x", 0)

    assert await mode_of(calls, "/tmp/f") == 0o777


async def test_an_open_that_truncates_takes_the_set_id_bits(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o6777)

    await calls.sys_open(BOB, "/tmp/f", WRITE | os.O_TRUNC)

    assert await mode_of(calls, "/tmp/f") == 0o777


async def test_truncation_takes_the_set_id_bits(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o6777)
    await put(calls, ALICE, "/tmp/g", 0o6777)
    fd = (await calls.sys_open(BOB, "/tmp/g", WRITE)).fd

    await calls.sys_setattr(BOB, "/tmp/f", Change(size=3))
    await calls.sys_fsetattr(BOB, fd, Change(size=3))

    assert await mode_of(calls, "/tmp/f") == 0o777
    assert await mode_of(calls, "/tmp/g") == 0o777


async def test_a_write_by_root_leaves_the_set_id_bits(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o6777)

    fd = (await calls.sys_open(ROOT, "/tmp/f", WRITE)).fd
    await calls.sys_write(fd, b"x", 0)

    assert await mode_of(calls, "/tmp/f") == 0o6777


async def test_setgid_without_group_execution_stays_for_members(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o2666)
    await put(calls, ALICE, "/tmp/g", 0o2666)

    for cred, path in ((MEMBER, "/tmp/f"), (BOB, "/tmp/g")):
        fd = (await calls.sys_open(cred, path, WRITE)).fd
        await calls.sys_write(fd, b"x", 0)

    assert await mode_of(calls, "/tmp/f") == 0o2666
    assert await mode_of(calls, "/tmp/g") == 0o666


async def test_chmod_to_the_same_mode_by_another_user_is_eperm(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o666)

    with pytest.raises(NotPermittedError):
        await calls.sys_setattr(BOB, "/tmp/f", Change(mode=0o666))


async def test_chmod_of_a_file_of_a_foreign_group_drops_setgid(calls: Syscalls) -> None:
    await put(calls, ALICE, "/home/f")
    await calls.sys_setattr(ROOT, "/home/f", Change(gid=7))

    await calls.sys_setattr(ALICE, "/home/f", Change(mode=0o2755))

    assert await mode_of(calls, "/home/f") == 0o755


async def test_what_is_made_in_a_setgid_directory_has_its_group(calls: Syscalls) -> None:
    await calls.sys_mkdir(ROOT, "/tmp/shared", 0o777)
    await calls.sys_setattr(ROOT, "/tmp/shared", Change(gid=7, mode=0o2777))

    await calls.sys_mkdir(ALICE, "/tmp/shared/d", 0o755)
    await calls.sys_open(ALICE, "/tmp/shared/f", NEW, 0o2755)

    found = [await calls.sys_stat(ROOT, f"/tmp/shared/{name}") for name in "df"]
    assert [st.gid for st in found] == [7, 7]
    assert [stat.S_IMODE(st.mode) for st in found] == [0o2755, 0o755]


# -- chown


async def test_an_owner_may_give_a_file_to_a_group_of_his_or_leave_it(calls: Syscalls) -> None:
    await put(calls, MEMBER, "/tmp/f")

    await calls.sys_setattr(MEMBER, "/tmp/f", Change(gid=1000))
    await calls.sys_setattr(ROOT, "/tmp/f", Change(gid=7))
    await calls.sys_setattr(MEMBER, "/tmp/f", Change(uid=1002, gid=7))

    assert (await calls.sys_stat(ROOT, "/tmp/f")).gid == 7


@pytest.mark.parametrize(
    ("cred", "change"),
    [(ALICE, Change(uid=1001)), (ALICE, Change(gid=1001)), (BOB, Change(gid=1001))],
)
async def test_chown_to_others_is_eperm(calls: Syscalls, cred: Credentials, change: Change) -> None:
    await put(calls, ALICE, "/tmp/f")

    with pytest.raises(NotPermittedError):
        await calls.sys_setattr(cred, "/tmp/f", change)


# -- times


async def test_the_times_of_anothers_file_are_eperm_though_it_is_writable(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o666)

    with pytest.raises(NotPermittedError):
        await calls.sys_setattr(BOB, "/tmp/f", Change(atime_ns=5, mtime_ns=5))


async def test_whoever_may_write_may_touch_and_gets_the_kernels_time(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o666)
    before = time.time_ns()

    st = await calls.sys_setattr(BOB, "/tmp/f", Change(atime_ns=5, mtime_ns=5, touch=True))

    assert before <= st.mtime_ns == st.atime_ns == st.ctime_ns


async def test_a_touch_without_the_right_to_write_is_eacces(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f", 0o644)

    with pytest.raises(AccessError):
        await calls.sys_setattr(BOB, "/tmp/f", Change(touch=True))


async def test_every_change_of_attributes_moves_ctime_alone(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f")
    before = await calls.sys_stat(ROOT, "/tmp/f")

    after = await calls.sys_setattr(ALICE, "/tmp/f", Change(mode=0o600))

    assert after.ctime_ns > before.ctime_ns
    assert (after.atime_ns, after.mtime_ns) == (before.atime_ns, before.mtime_ns)


async def test_a_rename_moves_ctime_of_what_moved_and_the_times_of_both_parents(
    calls: Syscalls,
) -> None:
    await calls.sys_mkdir(ALICE, "/tmp/d", 0o755)
    await put(calls, ALICE, "/tmp/f")
    paths = ("/tmp/f", "/tmp", "/tmp/d")
    before = [await calls.sys_stat(ROOT, path) for path in paths]

    await calls.sys_rename(ALICE, "/tmp/f", "/tmp/d/g")

    after = [await calls.sys_stat(ROOT, path) for path in ("/tmp/d/g", "/tmp", "/tmp/d")]
    assert after[0].ctime_ns > before[0].ctime_ns
    assert after[0].mtime_ns == before[0].mtime_ns
    assert all(new.mtime_ns > old.mtime_ns for new, old in zip(after[1:], before[1:], strict=True))


# -- the errno, where two would fit


async def test_what_exists_is_eexist_though_the_directory_is_not_writable(calls: Syscalls) -> None:
    await put(calls, ALICE, "/home/f")
    await put(calls, BOB, "/tmp/f")

    with pytest.raises(ExistsError):
        await calls.sys_mkdir(BOB, "/home/f")
    with pytest.raises(ExistsError):
        await calls.sys_link(BOB, "/tmp/f", "/home/f")


async def test_what_is_missing_is_enoent_though_the_directory_is_not_writable(
    calls: Syscalls,
) -> None:
    for call in (calls.sys_unlink, calls.sys_rmdir):
        with pytest.raises(NotFoundError):
            await call(BOB, "/home/none")
    with pytest.raises(NotFoundError):
        await calls.sys_rename(BOB, "/home/none", "/tmp/x")


async def test_opening_a_directory_for_writing_is_eisdir_whatever_its_mode(calls: Syscalls) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_CREAT):
        with pytest.raises(IsDirectoryError):
            await calls.sys_open(BOB, "/home", flags)


async def test_o_noatime_is_for_the_owner(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/f")

    await calls.sys_open(ALICE, "/tmp/f", os.O_NOATIME)
    with pytest.raises(NotPermittedError):
        await calls.sys_open(BOB, "/tmp/f", os.O_NOATIME)


async def test_truncating_what_has_no_size_is_refused_by_its_type(calls: Syscalls) -> None:
    await calls.sys_mknod(ALICE, "/tmp/fifo", stat.S_IFIFO | 0o600)

    with pytest.raises(IsDirectoryError):
        await calls.sys_setattr(BOB, "/home", Change(size=0))
    with pytest.raises(InvalidError):
        await calls.sys_setattr(ALICE, "/tmp/fifo", Change(size=0))


# -- names


async def test_an_open_makes_the_file_a_dangling_symlink_names(calls: Syscalls) -> None:
    await calls.sys_symlink(ALICE, b"middle", "/home/link")
    await calls.sys_symlink(ALICE, b"../tmp/made", "/home/middle")

    await calls.sys_open(ALICE, "/home/link", NEW)

    assert (await calls.sys_stat(ALICE, "/tmp/made")).is_file


async def test_an_exclusive_open_does_not_follow_a_symlink(calls: Syscalls) -> None:
    await calls.sys_symlink(ALICE, b"made", "/home/link")

    with pytest.raises(ExistsError):
        await calls.sys_open(ALICE, "/home/link", NEW | os.O_EXCL)
    with pytest.raises(SymlinkLoopError):
        await calls.sys_open(ALICE, "/home/link", NEW | os.O_NOFOLLOW)


async def test_an_open_that_makes_through_a_loop_of_symlinks_is_eloop(calls: Syscalls) -> None:
    await calls.sys_symlink(ALICE, b"loop", "/home/loop")

    with pytest.raises(SymlinkLoopError):
        await calls.sys_open(ALICE, "/home/loop", NEW)


async def test_a_slash_at_the_end_means_a_directory(calls: Syscalls) -> None:
    await put(calls, ALICE, "/home/f")
    await calls.sys_mkdir(ALICE, "/home/d/")
    refused: list[tuple[type[KernelError], Awaitable[object]]] = [
        (IsDirectoryError, calls.sys_open(ALICE, "/home/new/", NEW)),
        (NotFoundError, calls.sys_mknod(ALICE, "/home/new/", stat.S_IFIFO | 0o600)),
        (NotFoundError, calls.sys_link(ALICE, "/home/f", "/home/new/")),
        (NotDirectoryError, calls.sys_unlink(ALICE, "/home/f/")),
        (NotDirectoryError, calls.sys_rename(ALICE, "/home/f", "/home/new/")),
        (NotDirectoryError, calls.sys_rename(ALICE, "/home/f/", "/home/new")),
    ]

    for kind, call in refused:
        with pytest.raises(kind):
            await call
    await calls.sys_rename(ALICE, "/home/d/", "/home/e/")
    await calls.sys_rmdir(ALICE, "/home/e/")


async def test_dots_and_the_root_are_refused_as_each_call_does(calls: Syscalls) -> None:
    refused: list[tuple[type[KernelError], Awaitable[object]]] = [
        (ExistsError, calls.sys_mkdir(ROOT, "/home/..")),
        (ExistsError, calls.sys_mkdir(ROOT, "/")),
        (IsDirectoryError, calls.sys_unlink(ROOT, "/home/.")),
        (InvalidError, calls.sys_rmdir(ROOT, "/home/.")),
        (NotEmptyError, calls.sys_rmdir(ROOT, "/home/..")),
        (BusyError, calls.sys_rmdir(ROOT, "/")),
        (BusyError, calls.sys_rename(ROOT, "/home/.", "/x")),
        (BusyError, calls.sys_rename(ROOT, "/home", "/tmp/..")),
        (NotFoundError, calls.sys_mkdir(ROOT, "/none/.")),
    ]

    for kind, call in refused:
        with pytest.raises(kind):
            await call


async def test_mknod_makes_files_but_no_directories_and_symlinks(calls: Syscalls) -> None:
    await calls.sys_mknod(ALICE, "/home/f", 0o640)

    assert (await calls.sys_stat(ALICE, "/home/f")).mode == stat.S_IFREG | 0o640
    with pytest.raises(NotPermittedError):
        await calls.sys_mknod(ROOT, "/home/d", stat.S_IFDIR | 0o755)
    with pytest.raises(InvalidError):
        await calls.sys_mknod(ROOT, "/home/l", stat.S_IFLNK | 0o777)
    with pytest.raises(NotPermittedError):
        await calls.sys_mknod(ALICE, "/home/dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))


async def test_a_link_cannot_hide_below_a_control_tree(calls: Syscalls) -> None:
    await put(calls, ROOT, "/f")

    with pytest.raises(ExistsError):
        await calls.sys_link(ROOT, "/f", "/proc")


# -- sticky directories and rename


async def test_in_a_sticky_directory_only_owners_remove_and_rename(calls: Syscalls) -> None:
    await put(calls, ALICE, "/tmp/a", 0o666)
    await put(calls, BOB, "/tmp/b")

    with pytest.raises(NotPermittedError):
        await calls.sys_unlink(BOB, "/tmp/a")
    with pytest.raises(NotPermittedError):
        await calls.sys_rename(BOB, "/tmp/a", "/tmp/c")
    with pytest.raises(NotPermittedError):
        await calls.sys_rename(BOB, "/tmp/b", "/tmp/a")
    with pytest.raises(NotPermittedError):
        await calls.sys_rename(BOB, "/tmp/b", "/tmp/a", RENAME_EXCHANGE)
    await calls.sys_rename(BOB, "/tmp/b", "/tmp/c")


async def test_a_directory_that_is_not_writable_keeps_its_parent(calls: Syscalls) -> None:
    await calls.sys_mkdir(BOB, "/tmp/d", 0o555)
    await calls.sys_mkdir(BOB, "/tmp/e", 0o755)

    with pytest.raises(AccessError):
        await calls.sys_rename(BOB, "/tmp/d", "/tmp/e/d")
    await calls.sys_rename(BOB, "/tmp/d", "/tmp/f")


async def test_a_rename_onto_another_name_of_the_same_file_does_nothing(calls: Syscalls) -> None:
    await put(calls, ALICE, "/home/a")
    await calls.sys_link(ALICE, "/home/a", "/home/b")

    await calls.sys_rename(BOB, "/home/a", "/home/b")

    assert (await calls.sys_stat(ALICE, "/home/a")).nlink == 2


async def test_noreplace_is_eexist_and_exchange_needs_both(calls: Syscalls) -> None:
    await put(calls, ALICE, "/home/a")
    await calls.sys_mkdir(ALICE, "/home/d")

    with pytest.raises(ExistsError):
        await calls.sys_rename(ALICE, "/home/a", "/home/d", RENAME_NOREPLACE)
    with pytest.raises(NotFoundError):
        await calls.sys_rename(ALICE, "/home/a", "/home/none", RENAME_EXCHANGE)
    await calls.sys_rename(ALICE, "/home/a", "/home/d", RENAME_EXCHANGE)

    assert (await calls.sys_stat(ALICE, "/home/d")).is_file
    assert (await calls.sys_stat(ALICE, "/home/a")).is_dir
