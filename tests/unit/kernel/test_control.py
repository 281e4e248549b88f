"""Control files: a request acts inside its write, and the handle reads the reply."""

import os

import pytest
import trio

from nexusfs.contracts.errors import (
    BadFileError,
    BusyError,
    InvalidError,
    KernelError,
    NotFoundError,
    TooBigError,
    ToolFailedError,
)
from nexusfs.contracts.node import File
from nexusfs.kernel.requests import REQUEST_LIMIT_BYTES
from nexusfs.kernel.vfs.control import Request
from tests.kernel_fixture import ROOT
from tests.unit.kernel.files import error
from tests.unit.kernel.trees import KINDS, Desk, Gateway, Tree, failing, opened

PIECE = 1 << 20
"""Linux cuts a write into pieces of this size."""


# Kinds of requests


@pytest.mark.parametrize(
    ("name", "pieces", "acted"),
    [
        ("tool", [b'{"a": 1}'], [("object", b'{"a": 1}')]),
        ("tool", [b'{"a": 1}\n'], [("object", b'{"a": 1}')]),
        ("tool", [b"  \n", b'{"a"', b": 1", b"}"], [("object", b'{"a": 1}')]),
        ("spawn", [b"name a task\n"], [("line", b"name a task")]),
        ("spawn", [b"name", b" a ta", b"sk\n"], [("line", b"name a task")]),
        ("ctl", [b"stop\ncont\n"], [("line", b"stop"), ("line", b"cont")]),
        ("ctl", [b"\n\n  \nstop\n\n"], [("line", b"stop")]),
        ("ctl", [b"stop\nco", b"nt\n"], [("line", b"stop"), ("line", b"cont")]),
    ],
)
async def test_a_request_acts_as_soon_as_it_is_complete(
    tree: Tree, desk: Desk, name: str, pieces: list[bytes], acted: list[tuple[str, bytes]]
) -> None:
    file = await opened(tree, name)

    for piece in pieces:
        assert await file.write(piece, 0) == len(piece)

    assert desk.seen() == acted


@pytest.mark.parametrize(
    ("name", "pieces", "acted"),
    [
        ("spawn", [b"---\nname: x\n", b"---\nbody\n"], ("markdown", b"---\nname: x\n---\nbody\n")),
        ("spawn", [b"-", b"--\nname: x\n---\n"], ("markdown", b"---\nname: x\n---\n")),
        ("spawn", [b"name without newline"], ("line", b"name without newline")),
        ("ctl", [b"stop"], ("line", b"stop")),
        ("stdin", [b"one\n", b"two\n"], ("message", b"one\ntwo\n")),
        ("stdin", [b"  {"], ("message", b"  {")),
    ],
)
async def test_what_has_no_visible_end_acts_at_the_flush(
    tree: Tree, desk: Desk, name: str, pieces: list[bytes], acted: tuple[str, bytes]
) -> None:
    file = await opened(tree, name)
    for piece in pieces:
        await file.write(piece, 0)
    before = desk.seen()

    await file.flush()

    assert (before, desk.seen()) == ([], [acted])


async def test_every_flush_ends_a_message(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "stdin")
    for text in (b"a\n", b"b\n"):
        await file.write(text, 0)
        await file.flush()

    assert [data for _, data in desk.seen()] == [b"a\n", b"b\n"]


async def test_fsync_ends_a_message_too(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "stdin")
    await file.write(b"a", 0)

    await file.fsync(datasync=True)

    assert desk.seen() == [("message", b"a")]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("data", [b"", b" \n\t\n"])
async def test_white_space_alone_is_no_request(
    tree: Tree, desk: Desk, name: str, data: bytes
) -> None:
    file = await opened(tree, name)
    await file.write(data, 0)
    await file.flush()

    assert desk.seen() == []


@pytest.mark.parametrize(
    ("name", "data"),
    [("tool", b"hello\n"), ("tool", b"[1]"), ("tool", b'{"a": 1} x'), ("tool", b'{"a": 1}{}'),
     ("tool", b"{bad\n"), ("spawn", b"one\ntwo\n"), ("spawn", b"one\ntwo")],
)  # fmt: skip
async def test_what_is_no_request_is_einval_and_does_nothing(
    tree: Tree, desk: Desk, name: str, data: bytes
) -> None:
    file = await opened(tree, name)

    assert await error(file.write(data, 0)) is InvalidError
    await file.flush()
    assert desk.seen() == []


async def test_half_an_object_is_einval_at_the_flush(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "tool")
    await file.write(b'{"a": ', 0)

    assert await error(file.flush()) is InvalidError
    assert desk.seen() == []


async def test_a_request_has_its_openers_credentials(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "tool")
    await file.write(b"{}", 0)

    assert desk.creds == [ROOT]


# Replies


async def test_a_fresh_read_is_the_manual(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "tool", os.O_RDONLY)

    assert (await file.read(99, 0), await file.read(99, 4)) == (b"the manual\n", b"manual\n")
    assert desk.seen() == []


async def test_the_first_read_after_a_request_is_the_base(tree: Tree) -> None:
    file = await opened(tree, "tool")
    await file.write(b'{"a": 1}', 0)

    pieces = [await file.read(4, offset) for offset in (8, 12, 16, 20)]

    assert pieces == [b'<{"a', b'": 1', b"}>\n", b""]


async def test_a_shell_may_seek_back_within_the_reply(tree: Tree) -> None:
    file = await opened(tree, "tool")
    await file.write(b"{}", 0)
    await file.read(128, 2)

    assert await file.read(2, 4) == b"}>"


async def test_a_read_before_the_base_is_from_the_start(tree: Tree) -> None:
    file = await opened(tree, "tool")
    await file.write(b"{}", 0)
    await file.read(1, 2)

    assert await file.read(9, 0) == b"<{}>\n"


async def test_the_reply_of_a_second_request_replaces_the_first(tree: Tree) -> None:
    file = await opened(tree, "tool")
    await file.write(b'{"a": 1}', 0)
    first = await file.read(99, 8)
    await file.write(b'{"b": 2}', 19)

    assert (first, await file.read(99, 27)) == (b'<{"a": 1}>\n', b'<{"b": 2}>\n')


async def test_a_handle_of_one_kind_does_nothing_else(tree: Tree) -> None:
    reader = await opened(tree, "tool", os.O_RDONLY)
    writer = await opened(tree, "tool", os.O_WRONLY)

    assert await error(reader.write(b"{}", 0)) is BadFileError
    assert await error(writer.read(9, 0)) is BadFileError


# Failures


async def test_a_failed_request_fails_its_write_and_leaves_the_sentence(
    tree: Tree, desk: Desk
) -> None:
    desk.reply = failing
    file = await opened(tree, "tool")

    assert await error(file.write(b"{}", 0)) is NotFoundError
    assert await file.read(99, 0) == b"no such thing: write another\n"


async def test_a_failure_is_reported_with_path_and_call(tree: Tree, desk: Desk) -> None:
    desk.reply = failing
    await error((await opened(tree, "tool")).write(b"{}", 0))
    file = await opened(tree, "stdin")
    await file.write(b"x", 0)
    await error(file.flush())

    sentence = "no such thing: write another"
    assert tree.back.errors == [("tool", "write", sentence), ("stdin", "flush", sentence)]


async def test_an_error_with_a_reply_of_its_own_leaves_that(tree: Tree, desk: Desk) -> None:
    async def reply(_: Request) -> bytes:
        exc = ToolFailedError("it failed")
        exc.reply = b'{"error": "it failed"}\n'
        raise exc

    desk.reply = reply
    file = await opened(tree, "tool")
    await error(file.write(b"{}", 0))

    assert await file.read(99, 0) == b'{"error": "it failed"}\n'


async def test_after_a_failure_the_same_handle_takes_a_new_request(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "tool")
    await error(file.write(b"{bad\n", 0))
    await file.write(b"{}", 0)

    assert desk.seen() == [("object", b"{}")]


async def test_a_failed_line_may_be_repeated_and_fails_again(tree: Tree, desk: Desk) -> None:
    desk.reply = failing
    file = await opened(tree, "ctl")
    for _ in range(2):
        assert await error(file.write(b"cont\n", 0)) is NotFoundError

    assert len(desk.requests) == 2


async def test_a_failing_line_keeps_the_lines_after_it_from_acting(tree: Tree, desk: Desk) -> None:
    desk.reply = failing
    file = await opened(tree, "ctl")
    await error(file.write(b"one\ntwo\n", 0))

    assert desk.seen() == [("line", b"one")]


# Large writes


async def fed(file: File, data: bytes) -> tuple[int, type[KernelError] | None]:
    """What Linux's pieces of one write lead to: bytes taken, and the error."""
    for offset in range(0, len(data), PIECE):
        try:
            await file.write(data[offset : offset + PIECE], offset)
        except KernelError as exc:
            return offset, type(exc)
    return len(data), None


@pytest.mark.parametrize("name", ["tool", "stdin", "spawn"])
async def test_a_request_over_4_mib_is_efbig(tree: Tree, desk: Desk, name: str) -> None:
    start = b'{"a": "' if name == "tool" else b"---\n"
    file = await opened(tree, name)

    _, found = await fed(file, start + b"x" * (REQUEST_LIMIT_BYTES + 1))

    assert (found, desk.seen()) == (TooBigError, [])


@pytest.mark.parametrize("name", ["tool", "stdin"])
async def test_a_request_of_4_mib_is_taken(tree: Tree, desk: Desk, name: str) -> None:
    data = b'{"a": "' + b"x" * (REQUEST_LIMIT_BYTES - 9) + b'"}'
    file = await opened(tree, name)

    taken = await fed(file, data)
    await file.flush()

    assert (taken, len(desk.requests)) == ((len(data), None), 1)


async def test_the_rest_of_a_refused_write_is_refused_again(tree: Tree, desk: Desk) -> None:
    data = b'{"a": "' + b"x" * PIECE + b"\n bad \x01" + b"line do it\n" * 10
    file = await opened(tree, "spawn")
    taken, found = await fed(file, data)

    again = await error(file.write(data[taken : taken + PIECE], taken))

    assert (taken, found, again, desk.seen()) == (PIECE, InvalidError, InvalidError, [])


async def test_a_new_request_after_a_refused_large_one_is_taken(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "spawn")
    await fed(file, b'{"a": "' + b"x" * PIECE + b"\n bad")

    await file.write(b"name do it\n", PIECE)

    assert desk.seen() == [("line", b"name do it")]


async def test_after_a_flush_even_the_same_bytes_are_a_new_request(tree: Tree, desk: Desk) -> None:
    file = await opened(tree, "spawn")
    await file.write(b'{"a": "', 0)
    await error(file.write(b"name do it\n", 7))
    await file.flush()

    await file.write(b"name do it\n", 7)

    assert desk.seen() == [("line", b"name do it")]


# While a request is under way


async def test_a_write_waits_for_its_request(
    tree: Tree, gateway: Gateway, nursery: trio.Nursery
) -> None:
    file = await opened(tree, "tool")
    nursery.start_soon(file.write, b"{}", 0)
    await trio.testing.wait_all_tasks_blocked()

    assert await error(file.write(b"{}", 0)) is BusyError
    gateway.open.set()
    await trio.testing.wait_all_tasks_blocked()
    assert await file.read(99, 0) == b"through\n"


async def test_a_cancelled_write_cancels_its_request_and_says_so(
    tree: Tree, gateway: Gateway
) -> None:
    file = await opened(tree, "tool")
    with trio.move_on_after(0):
        await file.write(b"{}", 0)

    assert gateway.cancelled == 1
    assert b"interrupted" in await file.read(99, 0)


async def test_a_flush_of_another_descriptor_meanwhile_is_nothing(
    tree: Tree, gateway: Gateway, nursery: trio.Nursery
) -> None:
    file = await opened(tree, "tool")
    nursery.start_soon(file.write, b"{}", 0)
    await trio.testing.wait_all_tasks_blocked()

    await file.flush()
    gateway.open.set()
