"""Path walks over ordinary files and the mounted trees."""

import os
import stat

import pytest

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    InvalidError,
    KernelError,
    NameTooLongError,
    NotDirectoryError,
    NotFoundError,
    SymlinkLoopError,
)
from nexusfs.contracts.node import At, Change, Where
from nexusfs.kernel.syscalls import Syscalls
from tests.kernel_fixture import ALICE, ROOT


async def tree(calls: Syscalls) -> None:
    """/d/e/f is a file, with links to it and to the directories."""
    for path in ("/d", "/d/e"):
        await calls.sys_mkdir(ROOT, path, 0o755)
    await calls.sys_mknod(ROOT, "/d/e/f", stat.S_IFREG | 0o644)


async def ino(calls: Syscalls, where: Where, *, follow: bool = True) -> int:
    return (await calls.sys_stat(ROOT, where, follow=follow)).ino


async def error(calls: Syscalls, where: Where, cred: Credentials = ROOT) -> type[KernelError]:
    with pytest.raises(KernelError) as caught:
        await calls.sys_stat(cred, where)
    return type(caught.value)


@pytest.mark.parametrize(
    "path",
    ["/d/e/f", "d/e/f", "//d///e//f", "/./d/./e/f", "/d/../d/e/f", "/../../d/e/f", b"/d/e/f",
     "/d/e/../e/f", "/proc/../d/e/f"],
)  # fmt: skip
async def test_many_paths_lead_to_one_file(calls: Syscalls, path: str | bytes) -> None:
    await tree(calls)

    assert await ino(calls, path) == await ino(calls, "/d/e/f")


@pytest.mark.parametrize("path", ["/", "//", "/.", "/..", ".", "/d/..", "/d/e/../.."])
async def test_many_paths_lead_to_the_root(calls: Syscalls, path: str) -> None:
    await tree(calls)

    assert await ino(calls, path) == await ino(calls, "/")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", NotFoundError),
        ("/x", NotFoundError),
        ("/x/../d", NotFoundError),
        ("/d/x/f", NotFoundError),
        ("/d/e/f/x", NotDirectoryError),
        ("/d/e/f/..", NotDirectoryError),
        ("/d/e/f/.", NotDirectoryError),
        ("/d/e/f/", NotDirectoryError),
        ("/d\0e", InvalidError),
        ("/" + "n" * 256, NameTooLongError),
        ("/d/" + "n" * 256 + "/x", NameTooLongError),
        ("/d" * 2049, NameTooLongError),
    ],
)
async def test_a_path_that_leads_nowhere_says_why(
    calls: Syscalls, path: str, expected: type[KernelError]
) -> None:
    await tree(calls)

    assert await error(calls, path) is expected


async def test_a_name_may_have_255_bytes(calls: Syscalls) -> None:
    await calls.sys_mkdir(ROOT, "/" + "n" * 255)

    assert await ino(calls, "/" + "n" * 255)


async def test_a_name_need_not_be_unicode(calls: Syscalls) -> None:
    await calls.sys_mkdir(ROOT, b"/caf\xe9")

    assert await ino(calls, os.fsdecode(b"/caf\xe9")) == await ino(calls, b"/caf\xe9")


async def test_a_trailing_slash_asks_for_a_directory(calls: Syscalls) -> None:
    await tree(calls)

    assert await ino(calls, "/d/e/") == await ino(calls, "/d/e")


# Symlinks


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"e/f", "/d/link"),
        (b"/d/e/f", "/d/link"),
        (b"../d/e/f", "/d/link"),
        (b"./e", "/d/link/f"),
        (b"..", "/d/link/d/e/f"),
        (b"e/", "/d/link/f"),
        (b"e", "/d/link/../e/f"),
    ],
)
async def test_a_symlink_is_followed_from_where_it_is(
    calls: Syscalls, target: bytes, path: str
) -> None:
    await tree(calls)
    await calls.sys_symlink(ROOT, target, "/d/link")

    assert await ino(calls, path) == await ino(calls, "/d/e/f")


async def test_the_last_symlink_is_not_followed_when_not_asked(calls: Syscalls) -> None:
    await tree(calls)
    await calls.sys_symlink(ROOT, b"e", "/d/link")

    st = await calls.sys_stat(ROOT, "/d/link", follow=False)

    assert st.is_link


async def test_a_trailing_slash_follows_the_last_symlink(calls: Syscalls) -> None:
    await tree(calls)
    await calls.sys_symlink(ROOT, b"e", "/d/link")

    assert await ino(calls, "/d/link/", follow=False) == await ino(calls, "/d/e")


@pytest.mark.parametrize("target", [b"x", b"e/f/x", b"e/f/"])
async def test_a_symlink_to_nothing_says_why(calls: Syscalls, target: bytes) -> None:
    await tree(calls)
    await calls.sys_symlink(ROOT, target, "/d/link")

    assert await error(calls, "/d/link") is (NotFoundError if target == b"x" else NotDirectoryError)


@pytest.mark.parametrize("target", [b"loop", b"/loop", b"loop/x", b"./loop"])
async def test_a_symlink_to_itself_is_eloop(calls: Syscalls, target: bytes) -> None:
    await calls.sys_symlink(ROOT, target, "/loop")

    assert await error(calls, "/loop") is SymlinkLoopError
    assert await error(calls, "/loop/y") is SymlinkLoopError


@pytest.mark.parametrize(("links", "leads"), [(40, True), (41, False)])
async def test_at_most_40_symlinks_are_followed(calls: Syscalls, links: int, leads: bool) -> None:
    await calls.sys_mkdir(ROOT, "/l0")
    for number in range(1, links + 1):
        await calls.sys_symlink(ROOT, b"l%d" % (number - 1), f"/l{number}")

    if leads:
        assert await ino(calls, f"/l{links}") == await ino(calls, "/l0")
    else:
        assert await error(calls, f"/l{links}") is SymlinkLoopError


# Permission


async def test_every_directory_on_the_way_must_be_searchable(calls: Syscalls) -> None:
    await tree(calls)
    await calls.sys_setattr(ROOT, "/d", Change(mode=0o600))

    assert await error(calls, "/d/e/f", ALICE) is AccessError
    assert await error(calls, "/d/x", ALICE) is AccessError
    assert (await calls.sys_stat(ALICE, "/d")).is_dir


@pytest.mark.parametrize("path", ["/d/e/..", "/d/e/.", "/d/e/../e", "/d/e/"])
async def test_dots_need_search_permission_too(calls: Syscalls, path: str) -> None:
    await tree(calls)
    await calls.sys_setattr(ROOT, "/d/e", Change(mode=0o600))

    if path == "/d/e/":
        assert await calls.sys_stat(ALICE, path)
    else:
        assert await error(calls, path, ALICE) is AccessError


async def test_reading_a_directory_does_not_need_search(calls: Syscalls) -> None:
    await tree(calls)
    await calls.sys_setattr(ROOT, "/d", Change(mode=0o744))

    assert [entry.name for entry in await calls.sys_readdir(ALICE, "/d")] == [b"e"]


async def test_a_directory_that_may_only_be_searched_cannot_be_listed(calls: Syscalls) -> None:
    await tree(calls)
    await calls.sys_setattr(ROOT, "/d", Change(mode=0o711))

    with pytest.raises(AccessError):
        await calls.sys_readdir(ALICE, "/d")
    assert await calls.sys_stat(ALICE, "/d/e/f")


# Mounts


async def test_mounted_trees_are_in_the_root(calls: Syscalls) -> None:
    names = {entry.name for entry in await calls.sys_readdir(ROOT, "/")}

    assert names == {b"proc", b"dispatch", b"sys"}


async def test_a_name_below_a_mount_is_the_mounted_trees(calls: Syscalls) -> None:
    assert (await calls.sys_lookup(ROOT, "/proc/spawn"))[0].control


async def test_dot_dot_leaves_a_mounted_tree(calls: Syscalls) -> None:
    assert await ino(calls, "/proc/1/../..") == await ino(calls, "/")


async def test_a_symlink_leads_into_a_mounted_tree(calls: Syscalls) -> None:
    await calls.sys_symlink(ROOT, b"../proc/1", "/link")

    assert await ino(calls, "/link/status") == await ino(calls, "/proc/1/status")


async def test_mount_points_are_in_the_root_only(calls: Syscalls) -> None:
    await calls.sys_mkdir(ROOT, "/d")

    assert await error(calls, "/d/proc") is NotFoundError


async def test_a_name_in_a_known_directory_is_one_step(calls: Syscalls) -> None:
    await tree(calls)
    parent, _ = await calls.sys_lookup(ROOT, "/d/e")

    node, st = await calls.sys_lookup(ROOT, At(parent, b"f"))

    assert st.ino == node.ino == await ino(calls, "/d/e/f")


async def test_a_step_below_a_file_is_enotdir(calls: Syscalls) -> None:
    await tree(calls)
    parent, _ = await calls.sys_lookup(ROOT, "/d/e/f")

    assert await error(calls, At(parent, b"x")) is NotDirectoryError


async def test_a_step_checks_search_permission(calls: Syscalls) -> None:
    await tree(calls)
    await calls.sys_setattr(ROOT, "/d", Change(mode=0o600))
    parent, _ = await calls.sys_lookup(ROOT, "/d")

    assert await error(calls, At(parent, b"e"), ALICE) is AccessError


async def test_every_way_to_ask_for_a_name_finds_what_is_mounted_over_it(calls: Syscalls) -> None:
    await tree(calls)
    directory, _ = await calls.sys_lookup(ROOT, "/d")
    mounted, _ = await calls.sys_lookup(ROOT, "/d/e/f")
    await calls.sys_mknod(ROOT, "/d/covered", stat.S_IFREG | 0o644)
    await calls.vfs.mounts.mount_file(directory, b"covered", mounted)

    at = At(directory, b"covered")
    found = await calls.sys_find(ROOT, at)

    assert found is not None
    assert found[0] is mounted
    assert (await calls.sys_lookup(ROOT, at))[0] is mounted
    assert await calls.sys_find(ROOT, At(directory, b"absent")) is None
