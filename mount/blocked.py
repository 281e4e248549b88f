"""Frees blocked readers and writers when their process gets a signal.

pyfuse3 does not hand on FUSE's interrupts, and Linux cannot even SIGKILL a thread whose
request is being served. So while a request waits, its thread's pending signals are read from
the host's /proc every so often, and the request is cancelled (EINTR) when one is deliverable.

The thread known at first is the one that opened the file. When another one reads (a shell's
`cat <&3`), it is found by what Linux says of it: it sleeps in request_wait_answer and has the
inode open. One that cannot be found (another PID namespace) has its wait bounded instead.

Concurrency: `_waits` belongs to the trio thread; the sweep itself runs in a worker thread on
a copy, because a thousand status files cost 48 ms.
"""

import os
from dataclasses import dataclass

import trio

SWEEP_MIN_S = 0.08
SWEEP_PER_WAIT_S = 0.0005
"""Time between sweeps: 80 ms, and 0.5 ms more for each waiting request, which keeps the sweeps
below a tenth of one core and still frees 1,000 readers within a second."""
UNSEEN_LIMIT_S = 60.0
"""How long a request waits whose thread cannot be found."""
FUSE_WCHAN = "request_wait_answer"
"""Where a thread sleeps whose FUSE request is being served. Source: Linux fs/fuse/dev.c."""


@dataclass(eq=False)
class Wait:
    """One request under way: who opened the file, what inode it is, and how to stop it.

    `thread` is the waiting thread once it is known, `since` is trio time.
    """

    opener: int
    ino: int
    scope: trio.CancelScope
    since: float
    thread: int = 0
    signalled: bool = False


class Blocked:
    """The requests that wait now."""

    def __init__(self) -> None:
        """None."""
        self._waits: set[Wait] = set()
        self._some = trio.Event()

    def __len__(self) -> int:
        return len(self._waits)

    def add(self, opener: int, ino: int, scope: trio.CancelScope) -> Wait:
        """Watches a request until `remove`."""
        wait = Wait(opener, ino, scope, trio.current_time())
        self._waits.add(wait)
        self._some.set()
        return wait

    def remove(self, wait: Wait) -> None:
        """The request is over."""
        self._waits.discard(wait)

    def cancel_all(self) -> None:
        """Frees everybody: the mount is going."""
        for wait in self._waits:
            wait.scope.cancel()

    async def watch(self) -> None:
        """Sweeps for ever while requests wait."""
        while True:
            if not self._waits:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(SWEEP_MIN_S + SWEEP_PER_WAIT_S * len(self._waits))
            waits = list(self._waits)
            if waits:
                await trio.to_thread.run_sync(sweep, waits)
            now = trio.current_time()
            for wait in waits:
                unseen = not wait.thread and now - wait.since > UNSEEN_LIMIT_S
                if (wait.signalled or unseen) and wait in self._waits:
                    wait.scope.cancel()


def sweep(waits: list[Wait]) -> None:
    """Marks the waits whose thread has a deliverable signal, and finds unknown threads. Blocks."""
    unknown: list[Wait] = []
    signals: dict[int, bool | None] = {}
    for wait in waits:
        if not wait.thread and _sleeps_in_fuse(wait.opener):
            wait.thread = wait.opener
        if not wait.thread:
            unknown.append(wait)
            continue
        if wait.thread not in signals:
            signals[wait.thread] = has_signal(wait.thread)
        if (
            signals[wait.thread] is None or signals[wait.thread]
        ):  # the thread is gone: nobody waits any more
            wait.signalled = True
    if unknown:
        _find_threads(unknown, {wait.thread for wait in waits})


def has_signal(thread: int) -> bool | None:
    """True when a signal is pending that is neither blocked nor ignored; None for no such thread.

    Source: proc_pid_status(5), SigPnd, ShdPnd, SigBlk, SigIgn.
    """
    masks = {"SigPnd": 0, "ShdPnd": 0, "SigBlk": 0, "SigIgn": 0}
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            for line in status.read().decode("ascii", "replace").splitlines():
                key, _, value = line.partition(":")
                if key in masks:
                    masks[key] = int(value, 16)
                elif key == "State" and value.strip()[:1] in ("Z", "X"):
                    return None
    except OSError:
        return None
    return bool((masks["SigPnd"] | masks["ShdPnd"]) & ~masks["SigBlk"] & ~masks["SigIgn"])


def _sleeps_in_fuse(thread: int) -> bool:
    """True when the thread waits for an answer of some FUSE mount, or when Linux does not tell."""
    if not thread:
        return False
    try:
        with open(f"/proc/{thread}/wchan", encoding="ascii") as wchan:
            return wchan.read() in (FUSE_WCHAN, "0", "")
    except OSError:
        return False


def _find_threads(unknown: list[Wait], taken: set[int]) -> None:
    """Gives each wait a thread that sleeps in FUSE and whose process has the inode open."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or not unknown:
            continue
        for thread in _threads(name):
            if thread in taken or not _sleeps_in_fuse(thread):
                continue
            inos = open_inos(name)
            for wait in [wait for wait in unknown if wait.ino in inos]:
                wait.thread = thread
                taken.add(thread)
                unknown.remove(wait)
                break


def _threads(process: str) -> list[int]:
    try:
        return [int(task) for task in os.listdir(f"/proc/{process}/task")]
    except OSError:
        return []


def open_inos(process: int | str) -> set[int]:
    """Inode numbers of all open files of a process, on whatever filesystem."""
    inos: set[int] = set()
    folder = f"/proc/{process}/fdinfo"
    try:
        for fd in os.listdir(folder):
            with open(f"{folder}/{fd}", encoding="ascii") as info:
                inos |= {int(line[4:]) for line in info if line.startswith("ino:")}
    except OSError:
        pass
    return inos
