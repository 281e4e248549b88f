"""Opening files, and what an open file does."""

import os
import stat

import pytest

from nexusfs.contracts.errors import (
    AccessError,
    BadFileError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    KernelError,
    NotDirectoryError,
    NotFoundError,
    SymlinkLoopError,
)
from nexusfs.contracts.node import (
    Change,
)
from tests.kernel_fixture import ALICE, ROOT
from tests.unit.kernel.files import Files, error

# Opening


async def test_a_file_that_is_not_there_is_enoent(root: Files) -> None:
    assert await error(root.open("/f", os.O_RDONLY)) is NotFoundError


async def test_a_created_file_has_its_makers_ids_and_mode(alice: Files) -> None:
    await alice.open("/f", os.O_WRONLY | os.O_CREAT, 0o640)

    st = await alice.stat("/f")
    assert (st.mode, st.uid, st.gid, st.size) == (stat.S_IFREG | 0o640, 1000, 1000, 0)


async def test_creating_what_is_there_opens_it(root: Files) -> None:
    await root.put("/f", b"x")

    fd = await root.open("/f", os.O_RDWR | os.O_CREAT)

    assert await root.calls.sys_read(fd, 10, 0) == b"x"


async def test_a_created_file_is_open_whatever_its_mode(alice: Files) -> None:
    fd = await alice.open("/f", os.O_RDWR | os.O_CREAT, 0)

    assert await alice.calls.sys_write(fd, b"x", 0) == 1
    assert await error(alice.open("/f", os.O_RDONLY)) is AccessError


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/new/", IsDirectoryError),
        ("/loop", IsDirectoryError),
        ("/no/new/", NotFoundError),
        ("/around", SymlinkLoopError),
        ("/", IsDirectoryError),
    ],
)
async def test_what_is_made_has_no_slash_at_its_end_wherever_it_is_said(
    root: Files, path: str, expected: type[KernelError]
) -> None:
    await root.calls.sys_symlink(ROOT, b"loop/", "/loop")
    await root.calls.sys_symlink(ROOT, b"around", "/around")

    assert await error(root.open(path, os.O_WRONLY | os.O_CREAT)) is expected


@pytest.mark.parametrize("target", [b"", b"nowhere", b"f"])
async def test_an_exclusive_create_of_what_is_there_is_eexist(root: Files, target: bytes) -> None:
    if target:
        await root.calls.sys_symlink(ROOT, target, "/g")
    else:
        await root.put("/g")

    assert await error(root.open("/g", os.O_WRONLY | os.O_CREAT | os.O_EXCL)) is ExistsError


async def test_creating_through_a_symlink_makes_its_target(root: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    await root.calls.sys_symlink(ROOT, b"d/f", "/link")

    await root.open("/link", os.O_WRONLY | os.O_CREAT)

    assert await root.names("/d") == {"f"}


async def test_truncating_an_open_empties_the_file(root: Files) -> None:
    await root.put("/f", b"long")

    await root.open("/f", os.O_WRONLY | os.O_TRUNC)

    assert (await root.stat("/f")).size == 0


async def test_truncating_needs_write_permission(root: Files, alice: Files) -> None:
    await root.put("/f", b"long")

    assert await error(alice.open("/f", os.O_RDONLY | os.O_TRUNC)) is AccessError
    assert await root.text("/f") == b"long"


@pytest.mark.parametrize(
    ("mode", "flags", "may"),
    [
        (0o604, os.O_RDONLY, True),
        (0o604, os.O_WRONLY, False),
        (0o604, os.O_RDWR, False),
        (0o602, os.O_RDONLY, False),
        (0o602, os.O_WRONLY, True),
        (0o606, os.O_RDWR, True),
    ],
)
async def test_an_open_needs_the_permission_of_its_flags(
    root: Files, alice: Files, mode: int, flags: int, may: bool
) -> None:
    await root.put("/f", b"x", mode)

    if may:
        assert await alice.open("/f", flags)
    else:
        assert await error(alice.open("/f", flags)) is AccessError


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (os.O_WRONLY, IsDirectoryError),
        (os.O_RDWR, IsDirectoryError),
        (os.O_RDONLY | os.O_TRUNC, IsDirectoryError),
        (os.O_RDONLY | os.O_CREAT, IsDirectoryError),
    ],
)
async def test_a_directory_is_opened_to_read_only(
    root: Files, flags: int, expected: type[KernelError]
) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")

    assert await error(root.open("/d", flags)) is expected


async def test_a_file_opened_as_a_directory_is_enotdir(root: Files) -> None:
    await root.put("/f")

    assert await error(root.open("/f", os.O_RDONLY | os.O_DIRECTORY)) is NotDirectoryError


async def test_a_symlink_that_is_not_to_be_followed_is_eloop(root: Files) -> None:
    await root.calls.sys_symlink(ROOT, b"/", "/link")

    assert await error(root.open("/link", os.O_RDONLY | os.O_NOFOLLOW)) is SymlinkLoopError


async def test_creating_needs_a_writable_directory(root: Files, alice: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d", 0o755)

    assert await error(alice.open("/d/f", os.O_WRONLY | os.O_CREAT)) is AccessError


# Handles


async def test_a_handle_keeps_its_openers_rights(root: Files, alice: Files) -> None:
    await alice.put("/f", b"x")
    fd = await alice.open("/f", os.O_RDWR)
    await root.calls.sys_setattr(ROOT, "/f", Change(mode=0, uid=0))

    assert await alice.calls.sys_write(fd, b"y", 0) == 1
    assert await alice.calls.sys_read(fd, 1, 0) == b"y"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY])
async def test_a_handle_does_only_what_it_was_opened_for(root: Files, flags: int) -> None:
    await root.put("/f", b"x")
    fd = await root.open("/f", flags)

    if flags == os.O_RDONLY:
        assert await error(root.calls.sys_write(fd, b"y", 0)) is BadFileError
    else:
        assert await error(root.calls.sys_read(fd, 1, 0)) is BadFileError


async def test_a_descriptor_is_gone_after_close_and_not_used_again(root: Files) -> None:
    await root.put("/f")
    fd = await root.open("/f", os.O_RDONLY)
    await root.calls.sys_close(fd)

    assert await error(root.calls.sys_read(fd, 1, 0)) is BadFileError
    assert await error(root.calls.sys_close(fd)) is BadFileError
    assert await root.open("/f", os.O_RDONLY) > fd


async def test_an_unlinked_file_lives_while_it_is_open(root: Files) -> None:
    await root.put("/f", b"x")
    fd = await root.open("/f", os.O_RDONLY)
    await root.calls.sys_unlink(ROOT, "/f")

    assert await root.calls.sys_read(fd, 1, 0) == b"x"
    assert await root.names("/") == {"proc", "dispatch", "sys"}


async def test_a_file_open_for_writing_is_cut_without_further_permission(
    root: Files, alice: Files
) -> None:
    await alice.put("/f", b"long")
    fd = await alice.open("/f", os.O_WRONLY)
    await root.calls.sys_setattr(ROOT, "/f", Change(mode=0, uid=0))

    st = await alice.calls.sys_fsetattr(ALICE, fd, Change(size=2))

    assert st.size == 2


async def test_a_file_open_for_reading_is_not_cut(root: Files) -> None:
    await root.put("/f", b"long")
    fd = await root.open("/f", os.O_RDONLY)

    assert await error(root.calls.sys_fsetattr(ROOT, fd, Change(size=2))) is InvalidError
    assert await root.text("/f") == b"long"


async def test_an_open_directory_is_not_read(root: Files) -> None:
    fd = await root.open("/", os.O_RDONLY | os.O_DIRECTORY)

    assert await error(root.calls.sys_read(fd, 1, 0)) is IsDirectoryError


async def test_a_write_by_others_takes_setuid_off(root: Files, alice: Files) -> None:
    await root.put("/f", b"", 0o6777)
    fd = await alice.open("/f", os.O_WRONLY)

    await alice.calls.sys_write(fd, b"x", 0)

    assert stat.S_IMODE((await root.stat("/f")).mode) == 0o777


async def listed(files: Files, fd: int, start: int, count: int = 9) -> list[bytes | None]:
    """Names as an open directory lists them."""
    found = await files.calls.sys_readdir_fd(fd, start, count)
    return [one and one.name for one in found]


async def test_an_open_directory_lists_anew_from_the_start(root: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    fd = await root.open("/d", os.O_RDONLY | os.O_DIRECTORY)
    for name in "ab":
        await root.put(f"/d/{name}")
    first = await listed(root, fd, 0)
    await root.put("/d/c")

    rest = await listed(root, fd, 1)
    again = await listed(root, fd, 0)

    assert (first, rest, again) == ([b"a", b"b"], [b"b"], [b"a", b"b", b"c"])
    assert await listed(root, fd, 0, 2) == [b"a", b"b"]
    assert await listed(root, fd, 3) == []


async def test_a_listed_name_leads_where_it_does_now_and_a_vanished_one_nowhere(
    root: Files,
) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    for name in "abc":
        await root.put(f"/d/{name}", name.encode() * 10)
    fd = await root.open("/d", os.O_RDONLY | os.O_DIRECTORY)
    await root.calls.sys_readdir_fd(fd, 0, 1)
    await root.calls.sys_unlink(ROOT, "/d/b")
    await root.put("/d/new", b"new")
    await root.calls.sys_rename(ROOT, "/d/new", "/d/c")

    b, c = await root.calls.sys_readdir_fd(fd, 1, 9)

    assert b is None
    assert c is not None and (c.name, c.st.size) == (b"c", 3)


async def test_a_file_is_not_listed(root: Files) -> None:
    await root.put("/f")
    fd = await root.open("/f", os.O_RDONLY)

    assert await error(root.calls.sys_readdir_fd(fd, 0, 9)) is NotDirectoryError


# A page with attributes


async def test_a_page_of_a_directory_is_sorted_and_has_attributes(root: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d")
    for name in "cab":
        await root.put(f"/d/{name}", name.encode() * 10)

    total, page = await root.bound.list_page("/d", 1, 5)

    assert total == 3
    assert [(entry.name, st and st.size) for entry, st in page] == [(b"b", 10), (b"c", 10)]


async def test_a_page_shows_the_control_trees_of_the_root(root: Files) -> None:
    _, page = await root.bound.list_page("/", 0, 100)

    assert {b"proc", b"sys", b"dispatch"} <= {entry.name for entry, st in page if st and st.is_dir}


async def test_who_may_read_a_directory_and_not_search_it_sees_names_alone(
    root: Files, alice: Files
) -> None:
    await root.calls.sys_mkdir(ROOT, "/d", 0o744)
    await root.put("/d/f", b"x")

    _, page = await alice.bound.list_page("/d", 0, 5)

    assert [(entry.name, st) for entry, st in page] == [(b"f", None)]


async def test_a_page_needs_a_directory_that_may_be_read(root: Files, alice: Files) -> None:
    await root.calls.sys_mkdir(ROOT, "/d", 0o711)
    await root.put("/f")

    assert await error(alice.bound.list_page("/d", 0, 5)) is AccessError
    assert await error(root.bound.list_page("/f", 0, 5)) is NotDirectoryError
