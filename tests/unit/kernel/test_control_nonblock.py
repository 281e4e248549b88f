"""Control files opened with O_NONBLOCK: the write returns, and the reply comes later."""

import os

import pytest
import trio

from nexusfs.contracts.errors import (
    BusyError,
    WouldBlockError,
)
from nexusfs.contracts.node import POLLIN, POLLOUT
from nexusfs.kernel.vfs.control import Request
from tests.unit.kernel.files import error
from tests.unit.kernel.trees import Desk, Gateway, Tree, failing, opened

NONBLOCK = os.O_RDWR | os.O_NONBLOCK


async def test_with_nonblock_the_write_returns_and_the_reply_comes_later(
    tree: Tree, gateway: Gateway
) -> None:
    file = await opened(tree, "tool", NONBLOCK)
    await file.write(b"{}", 0)

    assert await error(file.read(99, 0)) is WouldBlockError
    gateway.open.set()
    await trio.testing.wait_all_tasks_blocked()
    assert await file.read(99, 0) == b"through\n"


async def test_with_nonblock_a_second_request_meanwhile_is_ebusy(
    tree: Tree, gateway: Gateway
) -> None:
    file = await opened(tree, "tool", NONBLOCK)
    await file.write(b"{}", 0)

    assert await error(file.write(b"{}", 2)) is BusyError
    gateway.open.set()


async def test_with_nonblock_poll_says_when_the_reply_is_there(
    tree: Tree, gateway: Gateway
) -> None:
    file = await opened(tree, "tool", NONBLOCK)
    await file.write(b"{}", 0)
    told: list[int] = []
    file.on_ready(lambda: told.append(file.ready()))
    before = file.ready()
    gateway.open.set()
    await trio.testing.wait_all_tasks_blocked()

    assert (before, told) == (POLLOUT, [POLLIN | POLLOUT])


async def test_with_nonblock_a_failure_is_the_reply(tree: Tree, desk: Desk) -> None:
    desk.reply = failing
    file = await opened(tree, "tool", NONBLOCK)
    await file.write(b"{}", 0)
    await trio.testing.wait_all_tasks_blocked()

    assert await file.read(99, 0) == b"no such thing: write another\n"
    assert tree.back.errors == [("tool", "write", "no such thing: write another")]


async def test_with_nonblock_a_bug_is_the_reply_and_ends_nothing(
    tree: Tree, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Request) -> bytes:
        raise ZeroDivisionError("a bug")

    desk.reply = broken
    file = await opened(tree, "tool", NONBLOCK)
    await file.write(b"{}", 0)
    await trio.testing.wait_all_tasks_blocked()

    assert b"internal error" in await file.read(99, 0)
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


async def test_with_nonblock_closing_cancels_the_request(tree: Tree, gateway: Gateway) -> None:
    file = await opened(tree, "tool", NONBLOCK)
    await file.write(b"{}", 0)
    await trio.testing.wait_all_tasks_blocked()

    await file.release()
    await trio.testing.wait_all_tasks_blocked()

    assert gateway.cancelled == 1


async def test_with_nonblock_lines_of_one_write_act_in_order(tree: Tree, desk: Desk) -> None:
    lines = [b"%d" % number for number in range(20)]
    file = await opened(tree, "ctl", NONBLOCK)

    await file.write(b"\n".join(lines) + b"\n", 0)
    await trio.testing.wait_all_tasks_blocked()

    assert [data for _, data in desk.seen()] == lines


async def test_with_nonblock_the_reply_waits_for_all_lines(
    tree: Tree, desk: Desk, gateway: Gateway
) -> None:
    async def first_at_once(request: Request) -> bytes:
        return b"1\n" if request.data == b"one" else await gateway(request)

    desk.reply = first_at_once
    file = await opened(tree, "ctl", NONBLOCK)
    await file.write(b"one\ntwo\n", 0)
    await trio.testing.wait_all_tasks_blocked()

    assert await error(file.read(99, 0)) is WouldBlockError
    gateway.open.set()


async def test_a_shut_kernel_says_so_to_a_new_request_with_nonblock(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise BusyError("the kernel is not running")

    monkeypatch.setattr(tree.back, "start", refuse)
    file = await opened(tree, "tool", NONBLOCK)

    assert await error(file.write(b"{}", 0)) is BusyError
    assert await file.read(99, 0) == b"the kernel is not running\n"
