"""A quick request loop for pyfuse3, put where it looks up `trio`.

pyfuse3's session tasks take turns at the FUSE descriptor: each takes a trio.Lock, waits until
the descriptor is readable, releases the lock and serves the request. Under load most of the time
goes into that, not into requests: trio.Lock hands over to the next task in line, so every
request goes to another task, and each of them arms epoll and suspends although the next request
may be there already. Measured with a client that reads proc/<pid>/status: 4 of 5 microseconds
of the daemon, and two epoll_wait and one epoll_ctl for each request.

Here a task that comes back takes the lock again without suspending, looks first whether a
request is there, and suspends only if not. Two things have to be kept by hand then:

- Other tasks get a turn after `TURN_S` at the latest, however busy the descriptor is.
- A task whose handler suspends leaves the descriptor to another one. `_watched` sees every
  suspension of a session task and wakes one that waits for the lock, if nobody has it.

pyfuse3 finds `trio` through its module global, which its own asyncio adapter replaces in the
same way: https://github.com/libfuse/pyfuse3/blob/master/src/pyfuse3/asyncio.py. The session loop
is https://github.com/libfuse/pyfuse3/blob/master/src/pyfuse3/internal.pxi, _session_loop().

Concurrency: all state belongs to the trio thread. Between suspensions: `lock.held` is true
exactly while a task is inside pyfuse3's `async with`; when it is false, either some session task
is scheduled to take it or none waits for it.
"""

import os
import select
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any

import pyfuse3
import trio
import trio.lowlevel

TURN_S = 0.0005
"""How long requests are served before other tasks get a turn. A turn costs about 15 microseconds
of trio, 3 % of this, and an agent waits at most this long for each of its steps."""
SPIN_S = 0.00005
"""How long to look again before suspending, when requests come briskly. The next request of a
program that just got its answer comes after 15 to 30 microseconds, and suspending and waking costs
more. Against plain pyfuse3 a status read is 0.82 times as fast without, 1.5 with 30 to 50
microseconds, 1.3 with 100."""
BRISK_S = 2 * SPIN_S
"""A wait shorter than this means that requests come briskly."""


class ReadLock:
    """A lock that is not handed on at release: whoever comes first takes it.

    Taking a free lock does not suspend; cancelling a waiter takes it out of the line.
    """

    def __init__(self) -> None:
        """Free."""
        self.held = False
        self._waiters = trio.lowlevel.ParkingLot()
        self._woken = 0

    async def __aenter__(self) -> None:
        """Takes the lock; suspends while somebody else has it."""
        while self.held:
            await self._waiters.park()
            self._woken -= 1
        self.held = True

    async def __aexit__(self, *exc: object) -> None:
        """Releases it and wakes nobody: the releasing task is likely to take it again."""
        self.held = False

    def wake_one(self) -> None:
        """Wakes a waiter, if the lock is free and none is on its way."""
        if not self.held and not self._woken:
            self._woken = len(self._waiters.unpark())


class RequestLoop:
    """What pyfuse3 sees as the module `trio`; all that is not defined here is trio's own."""

    ClosedResourceError = trio.ClosedResourceError

    def __init__(self) -> None:
        """A loop for one session."""
        self.lock = ReadLock()
        self.lowlevel = _Lowlevel(self)
        self._poll = select.poll()
        self._fd = -1
        self._closing = False
        self._brisk = False
        self._turn_ends = 0.0
        self._may_spin = len(os.sched_getaffinity(0)) > 1

    def Lock(self) -> ReadLock:
        """The one lock of the session; the name is trio's."""
        return self.lock

    def open_nursery(self) -> "_Nursery":
        """The nursery of the session tasks."""
        return _Nursery(self)

    async def wait_readable(self, fd: int) -> None:
        """Returns when a request, or the end of the mount, can be read. May suspend.

        Raises:
            trio.ClosedResourceError: notify_closing was called.
        """
        if fd != self._fd:
            self._poll, self._fd = select.poll(), fd
            self._poll.register(fd, select.POLLIN)
        if monotonic() >= self._turn_ends:
            await trio.lowlevel.checkpoint()
            self._turn_ends = monotonic() + TURN_S
        if self._closing:
            raise trio.ClosedResourceError("the mount is going")
        if self._poll.poll(0) or self._spin():
            return
        began = monotonic()
        await trio.lowlevel.wait_readable(fd)
        now = monotonic()
        self._brisk = now - began < BRISK_S
        self._turn_ends = now + TURN_S

    def _spin(self) -> bool:
        """Looks again for a short while; true when a request came. Only if nobody else can run."""
        if not (self._brisk and self._may_spin):
            return False
        if trio.lowlevel.current_statistics().tasks_runnable:
            return False
        ends = monotonic() + SPIN_S
        while not self._poll.poll(0):
            if monotonic() >= ends:
                self._brisk = False
                return False
        return True

    def notify_closing(self, fd: int) -> None:
        """Makes the waiting task, and every later one, raise ClosedResourceError."""
        self._closing = True
        trio.lowlevel.notify_closing(fd)

    def __getattr__(self, name: str) -> Any:
        """Everything else is trio's."""
        return getattr(trio, name)


class _Lowlevel:
    """What pyfuse3 sees as `trio.lowlevel`."""

    def __init__(self, loop: RequestLoop) -> None:
        self.wait_readable = loop.wait_readable
        self.notify_closing = loop.notify_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Nursery:
    """trio's nursery, but its tasks are watched for suspensions."""

    def __init__(self, loop: RequestLoop) -> None:
        self._lock = loop.lock
        self._context: AbstractAsyncContextManager[trio.Nursery] = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> "_Nursery":
        self._nursery = await self._context.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self._context.__aexit__(*exc)

    def start_soon(
        self, task: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: object = None
    ) -> None:
        """Starts a session task."""
        assert self._nursery is not None
        self._nursery.start_soon(self._run, task, args, name=name)

    async def _run(self, task: Callable[..., Coroutine[Any, Any, None]], args: Any) -> None:
        await _watched(task(*args), self._lock)


@types.coroutine
def _watched(coroutine: Coroutine[Any, Any, None], lock: ReadLock) -> Generator[Any, Any, None]:
    """Runs a session task, and wakes another one whenever it suspends, or ends, without the lock.

    A generator, since only that sees a suspension; it costs nothing while there is none. trio
    resumes with send() alone, see `outcome` in its unrolled_run().
    """
    resumed_with = None
    try:
        while True:
            trap = coroutine.send(resumed_with)
            lock.wake_one()
            resumed_with = yield trap
    except StopIteration:
        return
    finally:
        coroutine.close()
        lock.wake_one()


def install() -> RequestLoop:
    """Makes pyfuse3 use a new loop; call between its init() and main()."""
    loop = RequestLoop()
    pyfuse3.trio = loop  # type: ignore[attr-defined]  # a module global, see the docstring
    return loop
