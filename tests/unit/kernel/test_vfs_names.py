"""Making, removing and renaming, over the real store and the real control trees."""

import os
import stat

import pytest

from nexusfs.contracts.errors import (
    AccessError,
    BusyError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    KernelError,
    NameTooLongError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
)
from nexusfs.contracts.node import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Change,
)
from tests.kernel_fixture import ALICE, BOB, ROOT
from tests.unit.kernel.files import Files, error

# Making and removing


async def test_a_name_that_is_taken_is_eexist_for_everything(root: Files) -> None:
    await root.put("/f")

    calls = root.calls
    assert await error(calls.sys_mkdir(ROOT, "/f")) is ExistsError
    assert await error(calls.sys_mknod(ROOT, "/f", stat.S_IFREG)) is ExistsError
    assert await error(calls.sys_symlink(ROOT, b"x", "/f")) is ExistsError
    assert await error(calls.sys_link(ROOT, "/f", "/f")) is ExistsError


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFREG])
async def test_a_setgid_directory_hands_on_its_group(root: Files, alice: Files, kind: int) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    await root.calls.sys_setattr(ROOT, "/d", Change(gid=500, mode=0o2777))

    make = alice.calls.sys_mkdir if kind == stat.S_IFDIR else alice.calls.sys_mknod
    await make(ALICE, "/d/x", kind | 0o755)

    st = await alice.stat("/d/x")
    assert (st.gid, bool(st.mode & stat.S_ISGID)) == (500, kind == stat.S_IFDIR)


async def test_devices_are_for_root_and_fifos_for_all(alice: Files) -> None:
    assert await error(alice.calls.sys_mknod(ALICE, "/c", stat.S_IFCHR, 259)) is NotPermittedError
    assert await alice.calls.sys_mknod(ALICE, "/p", stat.S_IFIFO | 0o600)


async def test_a_symlinks_text_may_have_4095_bytes(root: Files) -> None:
    await root.calls.sys_symlink(ROOT, b"x" * 4095, "/a")

    assert await error(root.calls.sys_symlink(ROOT, b"x" * 4096, "/b")) is NameTooLongError


async def test_a_directory_has_no_hard_links(root: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")

    assert await error(root.calls.sys_link(ROOT, "/d", "/e")) is NotPermittedError


async def test_a_hard_link_is_the_same_file(root: Files) -> None:
    await root.put("/f", b"x")
    await root.calls.sys_link(ROOT, "/f", "/g")

    assert await root.text("/g") == b"x"
    assert (await root.stat("/f")).nlink == 2


async def test_what_is_removed_must_be_of_the_right_kind(root: Files) -> None:
    await root.put("/f")
    await root.calls.sys_mkdir(ROOT, "/d")

    assert await error(root.calls.sys_unlink(ROOT, "/d")) is IsDirectoryError
    assert await error(root.calls.sys_rmdir(ROOT, "/f")) is NotDirectoryError


async def test_a_directory_with_entries_stays(root: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    await root.put("/d/f")

    assert await error(root.calls.sys_rmdir(ROOT, "/d")) is NotEmptyError


@pytest.mark.parametrize(
    ("path", "expected"), [("/d/.", InvalidError), ("/d/..", NotEmptyError), ("/", BusyError)]
)
async def test_rmdir_of_a_name_that_is_none_is_refused(
    root: Files, path: str, expected: type[KernelError]
) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")

    assert await error(root.calls.sys_rmdir(ROOT, path)) is expected


async def test_a_sticky_directory_keeps_files_of_others(root: Files, alice: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/tmp", 0o1777)
    await Files(root.calls, BOB).put("/tmp/f")

    assert await error(alice.calls.sys_unlink(ALICE, "/tmp/f")) is NotPermittedError
    assert await error(alice.calls.sys_rename(ALICE, "/tmp/f", "/tmp/g")) is NotPermittedError


# Rename


async def test_rename_moves_over_what_is_there(root: Files) -> None:
    await root.put("/a", b"new")
    await root.put("/b", b"old")

    await root.calls.sys_rename(ROOT, "/a", "/b")

    assert await root.text("/b") == b"new"
    assert "a" not in await root.names("/")


async def test_rename_noreplace_keeps_what_is_there(root: Files) -> None:
    await root.put("/a", b"new")
    await root.put("/b", b"old")

    assert await error(root.calls.sys_rename(ROOT, "/a", "/b", RENAME_NOREPLACE)) is ExistsError
    assert (await root.text("/a"), await root.text("/b")) == (b"new", b"old")


async def test_rename_exchange_swaps(root: Files) -> None:
    await root.put("/a", b"1")
    await root.put("/b", b"2")

    await root.calls.sys_rename(ROOT, "/a", "/b", RENAME_EXCHANGE)

    assert (await root.text("/a"), await root.text("/b")) == (b"2", b"1")


async def test_rename_exchange_needs_both(root: Files) -> None:
    await root.put("/a")

    assert await error(root.calls.sys_rename(ROOT, "/a", "/b", RENAME_EXCHANGE)) is NotFoundError


async def test_a_source_that_is_not_there_is_enoent_whatever_is_at_the_goal(root: Files) -> None:
    await root.put("/b")

    for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        assert await error(root.calls.sys_rename(ROOT, "/a", "/b", flags)) is NotFoundError


@pytest.mark.parametrize("flags", [RENAME_EXCHANGE | RENAME_NOREPLACE, 4, 8, -1])
async def test_other_rename_flags_are_einval(root: Files, flags: int) -> None:
    await root.put("/a")

    assert await error(root.calls.sys_rename(ROOT, "/a", "/b", flags)) is InvalidError


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
async def test_a_directory_does_not_move_below_itself(root: Files, flags: int) -> None:
    await root.bound.make_dirs("/d/e/f")

    found = await error(root.calls.sys_rename(ROOT, "/d", "/d/e/f", flags))

    assert found is InvalidError


async def test_a_directory_that_moves_must_be_writable_itself(root: Files, alice: Files) -> None:
    for path in ("/from", "/to"):
        await alice.calls.sys_mkdir(ALICE, path)
    await root.calls.sys_mkdir(ROOT, "/from/d", 0o755)

    assert await error(alice.calls.sys_rename(ALICE, "/from/d", "/to/d")) is AccessError
    await alice.calls.sys_rename(ALICE, "/from/d", "/from/e")


async def test_renaming_a_name_of_a_file_to_another_of_it_changes_nothing(root: Files) -> None:
    await root.put("/a")
    await root.calls.sys_link(ROOT, "/a", "/b")

    await root.calls.sys_rename(ROOT, "/a", "/b")

    assert {"a", "b"} <= await root.names("/")


# Control trees

CONTROL = ["/proc/x", "/dispatch/x", "/sys/x", "/proc/1/x", "/sys/version", "/proc/spawn"]


@pytest.mark.parametrize("path", CONTROL)
async def test_nothing_is_made_in_a_control_tree(root: Files, path: str) -> None:
    await root.put("/f")
    calls = root.calls

    assert await error(calls.sys_mkdir(ROOT, path)) is NotPermittedError
    assert await error(calls.sys_mknod(ROOT, path, stat.S_IFREG)) is NotPermittedError
    assert await error(calls.sys_symlink(ROOT, b"x", path)) is NotPermittedError
    assert await error(calls.sys_link(ROOT, "/f", path)) is NotPermittedError
    assert await error(calls.sys_rename(ROOT, "/f", path)) is NotPermittedError


@pytest.mark.parametrize("path", ["/proc/spawn", "/sys/version", "/dispatch/look", "/proc/1"])
async def test_nothing_leaves_or_moves_in_a_control_tree(root: Files, path: str) -> None:
    calls = root.calls

    assert await error(calls.sys_unlink(ROOT, path)) is NotPermittedError
    assert await error(calls.sys_rmdir(ROOT, path)) is NotPermittedError
    assert await error(calls.sys_rename(ROOT, path, "/f")) is NotPermittedError
    assert await error(calls.sys_rename(ROOT, path, f"{path}.bak")) is NotPermittedError
    assert await error(calls.sys_link(ROOT, path, "/f")) is NotPermittedError


@pytest.mark.parametrize(
    "change", [Change(mode=0o777), Change(uid=5), Change(gid=5)], ids=["mode", "uid", "gid"]
)
async def test_mode_and_owner_of_control_files_stay(root: Files, change: Change) -> None:
    assert await error(root.calls.sys_setattr(ROOT, "/proc/spawn", change)) is NotPermittedError


async def test_cutting_a_control_file_means_nothing(root: Files) -> None:
    before = await root.stat("/proc/spawn")

    after = await root.calls.sys_setattr(ROOT, "/proc/spawn", Change(size=0))

    assert after.size == before.size


@pytest.mark.parametrize("path", ["/sys/nothing", "/proc/nothing", "/proc/1/nothing"])
async def test_creating_an_unknown_control_file_by_open_is_eperm(root: Files, path: str) -> None:
    assert await error(root.open(path, os.O_WRONLY | os.O_CREAT)) is NotPermittedError


async def test_an_unknown_tool_is_enoent_and_names_the_nearest(root: Files) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'look'"):
        await root.open("/dispatch/loko", os.O_WRONLY | os.O_CREAT)


# Mount points


@pytest.mark.parametrize("name", ["proc", "dispatch", "sys"])
async def test_a_mount_point_is_ebusy(root: Files, name: str) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    calls = root.calls

    assert await error(calls.sys_rmdir(ROOT, f"/{name}")) is BusyError
    assert await error(calls.sys_rename(ROOT, f"/{name}", "/x")) is BusyError
    assert await error(calls.sys_rename(ROOT, "/d", f"/{name}")) is BusyError
    swap = calls.sys_rename(ROOT, "/d", f"/{name}", RENAME_EXCHANGE)
    assert await error(swap) is BusyError


async def test_a_name_of_a_mount_point_is_free_elsewhere(root: Files) -> None:
    await root.bound.make_dirs("/d/proc")

    await root.calls.sys_rmdir(ROOT, "/d/proc")


async def test_what_a_control_tree_covers_stays_hidden(root: Files) -> None:
    assert await error(root.calls.sys_mkdir(ROOT, "/proc")) is ExistsError
