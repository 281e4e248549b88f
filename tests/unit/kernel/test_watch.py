"""News of changes: what every call tells the doors that have a cache."""

import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.node import (
    At,
    Change,
    Changed,
)
from tests.kernel_fixture import ALICE, ROOT
from tests.unit.kernel.files import Files, error

# News of changes


@pytest.fixture
def news(kernel: Kernel) -> list[tuple[int, bytes | None]]:
    """(inode of the node, name) of every change from here on."""
    heard: list[tuple[int, bytes | None]] = []

    def listen(changed: Changed) -> None:
        heard.append((changed.node.ino, changed.name))

    kernel.watch.listen(listen, trio.lowlevel.checkpoint)
    return heard


Act = Callable[[Files], Awaitable[object]]
NAME_CHANGES: dict[str, tuple[Act, list[bytes]]] = {
    "mkdir": (lambda f: f.calls.sys_mkdir(ROOT, "/new"), [b"new"]),
    "create": (lambda f: f.open("/new", os.O_WRONLY | os.O_CREAT), [b"new"]),
    "symlink": (lambda f: f.calls.sys_symlink(ROOT, b"x", "/new"), [b"new"]),
    "link": (lambda f: f.calls.sys_link(ROOT, "/f", "/new"), [b"new"]),
    "unlink": (lambda f: f.calls.sys_unlink(ROOT, "/f"), [b"f"]),
    "rmdir": (lambda f: f.calls.sys_rmdir(ROOT, "/d"), [b"d"]),
    "rename": (lambda f: f.calls.sys_rename(ROOT, "/f", "/new"), [b"f", b"new"]),
}
NODE_CHANGES: dict[str, Act] = {
    "chmod": lambda f: f.calls.sys_setattr(ROOT, "/f", Change(mode=0o600)),
    "truncate": lambda f: f.open("/f", os.O_WRONLY | os.O_TRUNC),
    "write": lambda f: f.bound.write_file("/f", b"x", append=True),
    "setxattr": lambda f: f.calls.sys_setxattr(ROOT, "/f", b"user.a", b"1"),
    "link": lambda f: f.calls.sys_link(ROOT, "/f", "/new"),
    "unlink": lambda f: f.calls.sys_unlink(ROOT, "/f"),
    "rename": lambda f: f.calls.sys_rename(ROOT, "/f", "/new"),
}


@pytest.mark.parametrize("call", NAME_CHANGES)
async def test_a_name_that_changes_is_told(
    root: Files, news: list[tuple[int, bytes | None]], call: str
) -> None:
    await root.put("/f")
    await root.calls.sys_mkdir(ROOT, "/d")
    news.clear()
    act, names = NAME_CHANGES[call]

    await act(root)

    parent = (await root.stat("/")).ino
    assert [name for ino, name in news if name and ino == parent] == names


@pytest.mark.parametrize("call", NODE_CHANGES)
async def test_a_file_that_changes_is_told(
    root: Files, news: list[tuple[int, bytes | None]], call: str
) -> None:
    await root.put("/f", b"old")
    ino = (await root.stat("/f")).ino
    news.clear()

    await NODE_CHANGES[call](root)

    assert (ino, None) in news


async def test_a_call_that_fails_tells_nothing(
    root: Files, alice: Files, news: list[tuple[int, bytes | None]]
) -> None:
    await root.put("/f", b"x", 0o600)
    news.clear()

    await error(alice.open("/f", os.O_WRONLY | os.O_TRUNC))
    await error(alice.calls.sys_mkdir(ALICE, "/f"))

    assert news == []


async def test_a_door_is_not_told_of_what_came_through_it(root: Files, kernel: Kernel) -> None:
    heard: list[bytes | None] = []
    kernel.watch.listen(lambda changed: heard.append(changed.name), door="fuse")

    await root.calls.sys_mkdir(Credentials(0, 0, door="fuse"), "/d")
    await root.calls.sys_mkdir(ROOT, "/e")

    assert heard == [b"e"]


async def test_a_name_in_a_known_directory_can_be_made_and_removed(root: Files) -> None:
    parent = await root.calls.sys_mkdir(ROOT, "/d")

    await root.calls.sys_mkdir(ROOT, At(parent, b"e"))
    made = await root.names("/d")
    await root.calls.sys_rmdir(ROOT, At(parent, b"e"))

    assert (made, await root.names("/d")) == ({"e"}, set())
