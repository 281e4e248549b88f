"""The request loop, with a socket in the place of the FUSE descriptor."""

import socket
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest
import trio
import trio.lowlevel
import trio.testing

from mount.loop import TURN_S, ReadLock, RequestLoop

Handler = Callable[[bytes], Awaitable[None]]


class Fuse:
    """A descriptor with requests, and session tasks that work as pyfuse3's do."""

    def __init__(self) -> None:
        self.ours, self.linux = socket.socketpair()
        self.fd = self.ours.fileno()
        self.loop = RequestLoop()
        self.exited = False

    def request(self, name: bytes = b"x") -> None:
        self.linux.send(name)

    async def serve(self, handler: Handler, tasks: int = 2) -> None:
        async with self.loop.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(self._session, handler)

    async def _session(self, handler: Handler) -> None:
        lock = self.loop.Lock()
        while not self.exited:
            try:
                async with lock:
                    if self.exited:
                        return
                    await self.loop.lowlevel.wait_readable(self.fd)
            except trio.ClosedResourceError:
                return
            await handler(self.ours.recv(1))

    def terminate(self) -> None:
        self.exited = True
        self.loop.lowlevel.notify_closing(self.fd)


@pytest.fixture
def fuse() -> Iterator[Fuse]:
    made = Fuse()
    yield made
    made.ours.close()
    made.linux.close()


# -- the lock


async def test_a_free_lock_is_taken_without_a_suspension() -> None:
    lock = ReadLock()

    with trio.testing.assert_no_checkpoints():
        async with lock:
            assert lock.held
        assert not lock.held


async def test_release_does_not_hand_over() -> None:
    lock = ReadLock()
    order: list[str] = []

    async def other() -> None:
        async with lock:
            order.append("other")

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
        async with lock:
            order.append("again")
        lock.wake_one()

    assert order == ["again", "other"]


async def test_one_waiter_is_woken_at_a_time() -> None:
    lock = ReadLock()
    inside: list[int] = []

    async def waiter(number: int) -> None:
        async with lock:
            inside.append(number)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with lock:
            for number in range(3):
                nursery.start_soon(waiter, number)
            await trio.testing.wait_all_tasks_blocked()
        lock.wake_one()
        lock.wake_one()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert len(inside) == 1


async def test_a_woken_waiter_that_comes_too_late_waits_again() -> None:
    lock = ReadLock()
    got_it = trio.Event()

    async def waiter() -> None:
        async with lock:
            got_it.set()

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(waiter)
            await trio.testing.wait_all_tasks_blocked()
        lock.wake_one()
        async with lock:
            await trio.testing.wait_all_tasks_blocked()
            assert not got_it.is_set()
        lock.wake_one()
        await got_it.wait()


async def test_a_cancelled_waiter_leaves_the_line() -> None:
    lock = ReadLock()
    got_it = trio.Event()

    async def waiter() -> None:
        async with lock:
            got_it.set()

    async with trio.open_nursery() as nursery, lock:
        with trio.move_on_after(0) as scope:
            await waiter()
        nursery.start_soon(waiter)
        await trio.testing.wait_all_tasks_blocked()
        await lock.__aexit__()
        lock.wake_one()
        await got_it.wait()

    assert scope.cancelled_caught


# -- waiting for requests


async def test_a_request_that_is_there_is_taken_without_a_suspension(fuse: Fuse) -> None:
    fuse.request()
    await fuse.loop.wait_readable(fuse.fd)  # this one begins the turn

    with trio.testing.assert_no_checkpoints():
        await fuse.loop.wait_readable(fuse.fd)


async def test_a_request_wakes_the_waiting_task(fuse: Fuse) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fuse.loop.wait_readable, fuse.fd)
        await trio.testing.wait_all_tasks_blocked()
        fuse.request()


async def test_a_hang_up_wakes_too(fuse: Fuse) -> None:
    fuse.linux.close()

    await fuse.loop.wait_readable(fuse.fd)


async def test_a_busy_descriptor_starves_nobody(fuse: Fuse) -> None:
    """Requests never end, and another task makes its steps and sees its timer nevertheless."""
    steps = count()

    async def endless(_: bytes) -> None:
        fuse.request()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            fuse.request()
            nursery.start_soon(fuse.serve, endless)
            while next(steps) < 100:
                await trio.sleep(TURN_S / 2)
            nursery.cancel_scope.cancel()


async def test_a_handler_that_waits_leaves_the_descriptor_to_another_task(fuse: Fuse) -> None:
    answer, seen = trio.Event(), list[bytes]()

    async def handler(request: bytes) -> None:
        seen.append(request)
        if request == b"w":
            await answer.wait()
        elif request == b"a":
            answer.set()
            fuse.terminate()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fuse.serve, handler)
            fuse.request(b"w")
            await trio.testing.wait_all_tasks_blocked()
            fuse.request(b"a")

    assert seen == [b"w", b"a"]


async def test_a_task_that_ends_leaves_the_descriptor_to_another_one(fuse: Fuse) -> None:
    seen: list[bytes] = []

    async def handler(request: bytes) -> None:
        seen.append(request)
        if request == b"e":
            fuse.terminate()

    async def one_request() -> None:
        async with fuse.loop.Lock():
            await fuse.loop.wait_readable(fuse.fd)
        seen.append(fuse.ours.recv(1))

    with trio.fail_after(30):
        async with fuse.loop.open_nursery() as nursery:
            nursery.start_soon(one_request)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(fuse.serve, handler, 1)
            await trio.testing.wait_all_tasks_blocked()
            fuse.request(b"1")
            await trio.testing.wait_all_tasks_blocked()
            fuse.request(b"e")

    assert seen == [b"1", b"e"]


# -- the end


async def test_closing_ends_all_session_tasks(fuse: Fuse) -> None:
    async def handler(_: bytes) -> None:
        raise AssertionError("there was no request")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fuse.serve, handler, 5)
            await trio.testing.wait_all_tasks_blocked()
            fuse.terminate()


async def test_closing_while_the_waiting_task_has_only_given_a_turn_ends_it(fuse: Fuse) -> None:
    """It is not in trio's epoll then, so trio's own notify_closing would miss it."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def waiter() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await fuse.loop.wait_readable(fuse.fd)

            nursery.start_soon(waiter)
            await trio.lowlevel.checkpoint()
            fuse.terminate()


async def test_after_closing_a_waiting_request_is_not_served(fuse: Fuse) -> None:
    fuse.request()
    fuse.loop.notify_closing(fuse.fd)

    with pytest.raises(trio.ClosedResourceError):
        await fuse.loop.wait_readable(fuse.fd)


async def test_cancelling_the_nursery_ends_waiting_tasks_and_frees_the_lock(fuse: Fuse) -> None:
    async def handler(_: bytes) -> None:
        await trio.sleep_forever()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fuse.serve, handler, 3)
            fuse.request()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    assert not fuse.loop.lock.held


async def test_an_error_of_a_session_task_ends_the_others(fuse: Fuse) -> None:
    async def handler(_: bytes) -> None:
        raise OSError("receive failed")

    fuse.request()
    with pytest.RaisesGroup(OSError):
        await fuse.serve(handler, 3)


def test_everything_else_is_trios_own(fuse: Fuse) -> None:
    assert fuse.loop.ClosedResourceError is trio.ClosedResourceError
    assert fuse.loop.from_thread is trio.from_thread
    assert fuse.loop.lowlevel.current_task is trio.lowlevel.current_task
