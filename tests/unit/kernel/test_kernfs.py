"""Rows of control trees: text, logs, pipes, waits, links, directories."""

import os
import stat
from collections.abc import Awaitable

import pytest
import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    KernelError,
    NotDirectoryError,
    NotFoundError,
    NotPermittedError,
    WouldBlockError,
)
from nexusfs.contracts.node import POLLHUP, POLLIN, Change, DirEntry, Node
from nexusfs.kernel.log import Log
from nexusfs.kernel.vfs.kernfs import DirNode, Dynamic, TextNode, Waiter
from tests.kernel_fixture import ALICE, BOB, ROOT
from tests.unit.kernel.trees import Tree

NONBLOCK = os.O_RDONLY | os.O_NONBLOCK


class Thing:
    """What the files of a tree are about."""

    def __init__(self) -> None:
        self.text = b"one\n"
        self.renders = 0
        self.log = Log()
        self.value: bytes | None = None

    def render(self) -> bytes:
        self.renders += 1
        return self.text


@pytest.fixture
def thing() -> Thing:
    return Thing()


@pytest.fixture
def tree(nursery: trio.Nursery, thing: Thing) -> Tree:
    tree = Tree(nursery, thing)
    tree.table.text("text", 0o440)(lambda it: it.render())
    tree.table.log("log", 0o400, lambda it: it.log)
    tree.table.pipe("log_pipe", 0o400, lambda it: it.log)
    tree.table.wait("wait", 0o444, Waiter(lambda it: it.value, lambda it: it.log))
    tree.table.link("mine", lambda _, cred: b"to-%d" % cred.uid if cred.uid else None)
    tree.table.sub("sub", lambda it, ino: DirNode(tree.table, it, ino))
    return tree


async def node(tree: Tree, name: str, cred: Credentials = ROOT) -> Node:
    return await tree.root.lookup(cred, name.encode())


async def error(made: Awaitable[object]) -> type[KernelError]:
    with pytest.raises(KernelError) as caught:
        await made
    return type(caught.value)


# Directories


async def test_a_directory_lists_its_rows_in_order(tree: Tree) -> None:
    entries = await tree.root.entries(ALICE)

    assert [(e.name, stat.filemode(e.kind)[0]) for e in entries] == [
        (b"text", "-"), (b"log", "-"), (b"log_pipe", "-"), (b"wait", "-"), (b"mine", "l"),
        (b"sub", "d"),
    ]  # fmt: skip


async def test_inode_numbers_follow_from_the_row(tree: Tree) -> None:
    listed = {entry.name: entry.ino for entry in await tree.root.entries(ALICE)}
    found = {name: (await node(tree, name.decode(), ALICE)).ino for name in listed}

    assert listed == found
    assert len(set(listed.values())) == len(listed)


async def test_files_belong_to_the_objects_owner(tree: Tree) -> None:
    st = await (await node(tree, "text")).stat()

    assert (st.uid, st.gid, st.mtime_ns, st.nlink) == (1000, 1000, 1_000, 1)
    assert st.mode == stat.S_IFREG | 0o440


async def test_an_unknown_name_is_enoent(tree: Tree) -> None:
    assert await error(tree.root.lookup(ROOT, b"nothing")) is NotFoundError


async def test_a_file_has_no_names_below(tree: Tree) -> None:
    text = await node(tree, "text")

    assert await error(text.lookup(ROOT, b"x")) is NotDirectoryError
    assert await error(text.entries(ROOT)) is NotDirectoryError


async def test_rows_come_before_names_that_come_and_go(tree: Tree) -> None:
    async def lookup(cred: Credentials, name: bytes) -> Node:
        if name != b"7":
            raise NotFoundError("no such thing")
        return tree.root

    async def entries(cred: Credentials) -> list[DirEntry]:
        return [DirEntry(b"7", 99, stat.S_IFDIR)]

    both = DirNode(tree.table, None, 8192, dynamic=Dynamic(lookup, entries))

    assert [e.name for e in await both.entries(ALICE)][-2:] == [b"sub", b"7"]
    assert await both.lookup(ROOT, b"7") is tree.root
    assert await error(both.lookup(ROOT, b"8")) is NotFoundError


@pytest.mark.parametrize("change", [Change(mode=0o777), Change(uid=1), Change(gid=1)])
async def test_mode_and_owner_stay(tree: Tree, change: Change) -> None:
    assert await error((await node(tree, "text")).setattr(change)) is NotPermittedError


async def test_size_and_times_can_be_set_and_mean_nothing(tree: Tree) -> None:
    text = await node(tree, "text")

    assert await text.setattr(Change(size=0, mtime_ns=5)) == await text.stat()


# Text


async def test_text_is_rendered_at_open_and_stays(tree: Tree, thing: Thing) -> None:
    file = await tree.open("text")
    thing.text = b"another\n"

    assert (await file.read(100, 0), await file.read(2, 2)) == (b"one\n", b"e\n")


async def test_the_size_is_that_of_the_newest_handle(tree: Tree, thing: Thing) -> None:
    text = await node(tree, "text")
    file = await text.open(ROOT, os.O_RDONLY)
    thing.text = b"longer\n"
    during = (await text.stat()).size
    await file.release()

    assert (during, (await text.stat()).size) == (4, 7)


async def test_an_older_handle_leaves_the_newer_ones_size(tree: Tree, thing: Thing) -> None:
    text = await node(tree, "text")
    older = await text.open(ROOT, os.O_RDONLY)
    thing.text = b"longer\n"
    await text.open(ROOT, os.O_RDONLY)
    thing.text = b""

    await older.release()

    assert (await text.stat()).size == 7


async def test_a_text_may_be_of_a_kind_of_its_own(tree: Tree) -> None:
    class Loud(TextNode):
        def rendered(self) -> bytes:
            return super().rendered().upper()

    tree.table.text("loud", 0o444, Loud)(lambda it: it.render())

    assert await (await tree.open("loud")).read(10, 0) == b"ONE\n"


@pytest.mark.parametrize("name", ["text", "log", "log_pipe", "wait"])
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
async def test_what_is_only_read_is_not_opened_to_write(tree: Tree, name: str, flags: int) -> None:
    assert await error(tree.open(name, flags)) is AccessError


# Logs


async def test_a_log_grows_under_an_open_handle(tree: Tree, thing: Thing) -> None:
    file = await tree.open("log")
    before = await file.read(10, 0)
    thing.log.append(b"a\n")

    assert (before, await file.read(10, 0), await file.read(10, 2)) == (b"", b"a\n", b"")


async def test_a_log_has_its_true_size(tree: Tree, thing: Thing) -> None:
    thing.log.append(b"abc\n")
    thing.log.push_live(b"not yet")

    assert (await (await node(tree, "log")).stat()).size == 4


# Pipes


async def test_a_pipe_waits_for_what_comes_and_ends(
    tree: Tree, thing: Thing, nursery: trio.Nursery
) -> None:
    file = await tree.open("log_pipe")
    read: list[bytes] = []

    async def reader() -> None:
        while piece := await file.read(100, 0):
            read.append(piece)
        read.append(b"the end")

    nursery.start_soon(reader)
    for piece in (b"a", b"b"):
        await trio.testing.wait_all_tasks_blocked()
        thing.log.append(piece)
    await trio.testing.wait_all_tasks_blocked()
    thing.log.close()
    await trio.testing.wait_all_tasks_blocked()

    assert read == [b"a", b"b", b"the end"]


async def test_a_pipe_gives_pieces_of_the_size_asked_for(tree: Tree, thing: Thing) -> None:
    thing.log.append(b"abcde")
    file = await tree.open("log_pipe")

    assert [await file.read(2, offset) for offset in (0, 2, 4)] == [b"ab", b"cd", b"e"]


async def test_every_reader_of_a_pipe_gets_all_of_it(tree: Tree, thing: Thing) -> None:
    files = [await tree.open("log_pipe") for _ in range(2)]
    thing.log.append(b"a")

    assert [await file.read(9, 0) for file in files] == [b"a", b"a"]


async def test_a_cancelled_read_of_a_pipe_loses_nothing(tree: Tree, thing: Thing) -> None:
    file = await tree.open("log_pipe")
    with trio.move_on_after(0):
        await file.read(9, 0)
    thing.log.append(b"a")

    assert await file.read(9, 0) == b"a"


async def test_a_pipe_is_eagain_with_nonblock_and_ends_when_it_is_over(
    tree: Tree, thing: Thing
) -> None:
    file = await tree.open("log_pipe", NONBLOCK)

    assert await error(file.read(9, 0)) is WouldBlockError
    thing.log.close()
    assert await file.read(9, 0) == b""


async def test_a_pipe_says_when_it_is_ready(tree: Tree, thing: Thing) -> None:
    file = await tree.open("log_pipe")
    told: list[int] = []
    file.on_ready(lambda: told.append(file.ready()))
    before = file.ready()
    thing.log.append(b"a")
    await file.read(9, 0)
    empty = file.ready()
    thing.log.close()

    assert (before, told, empty, file.ready()) == (0, [POLLIN], 0, POLLIN | POLLHUP)


async def test_a_pipe_has_no_size_and_no_place(tree: Tree, thing: Thing) -> None:
    thing.log.append(b"abc")

    assert (await (await node(tree, "log_pipe")).stat()).size == 0
    assert not (await tree.open("log_pipe")).seekable


# Waits


async def test_a_wait_blocks_until_there_is_a_value(
    tree: Tree, thing: Thing, nursery: trio.Nursery
) -> None:
    file = await tree.open("wait")
    read: list[bytes] = []

    async def reader() -> None:
        read.append(await file.read(100, 0))

    nursery.start_soon(reader)
    await trio.testing.wait_all_tasks_blocked()
    waits = not read
    thing.value = b"2 0 done\n"
    thing.log.close()
    await trio.testing.wait_all_tasks_blocked()

    assert (waits, read) == (True, [b"2 0 done\n"])


async def test_a_wait_is_eagain_with_nonblock_and_says_when_ready(tree: Tree, thing: Thing) -> None:
    file = await tree.open("wait", NONBLOCK)
    told: list[int] = []
    file.on_ready(lambda: told.append(file.ready()))
    before = file.ready()

    assert await error(file.read(9, 0)) is WouldBlockError
    thing.value = b"x"
    thing.log.close()
    assert (before, told) == (0, [POLLIN])


async def test_a_value_is_read_at_offsets_and_has_a_size(tree: Tree, thing: Thing) -> None:
    thing.value = b"2 0 done\n"
    file = await tree.open("wait")

    assert (await file.read(3, 0), await file.read(99, 3), await file.read(9, 9)) == (
        b"2 0", b" done\n", b"",
    )  # fmt: skip
    assert (await (await node(tree, "wait")).stat()).size == 9


# Links


async def test_a_link_goes_by_the_caller(tree: Tree) -> None:
    targets = [await (await node(tree, "mine", c)).readlink(c) for c in (ALICE, BOB)]

    assert targets == [b"to-1000", b"to-1001"]


async def test_a_link_without_a_target_does_not_exist(tree: Tree) -> None:
    assert await error(tree.root.lookup(ROOT, b"mine")) is NotFoundError
    assert b"mine" not in [entry.name for entry in await tree.root.entries(ROOT)]


async def test_a_link_that_lost_its_target_is_enoent(tree: Tree) -> None:
    link = await node(tree, "mine", ALICE)

    assert await error(link.readlink(ROOT)) is NotFoundError


@pytest.mark.parametrize("name", ["log_pipe", "wait"])
async def test_a_poll_of_a_closed_handle_leaves_nothing_in_the_log(
    tree: Tree, thing: Thing, name: str
) -> None:
    told: list[str] = []
    for _ in range(3):
        file = await tree.open(name)
        file.on_ready(lambda: told.append("woken"))
        await file.release()

    assert not thing.log._wakes
    thing.log.append(b"a")
    assert told == []
