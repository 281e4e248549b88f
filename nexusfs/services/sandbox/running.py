"""A program from its first instruction to the end of the last process that it started."""

import contextlib
import logging
import os
import signal

import trio

from nexusfs.contracts.errors import NoSandboxError
from nexusfs.contracts.sandbox import Command, Ended, SandboxKind
from nexusfs.services.sandbox.asker import Asker
from nexusfs.services.sandbox.cgroup import Cgroup, Cgroups
from nexusfs.services.sandbox.limits import MIB, SandboxSettings
from nexusfs.services.sandbox.output import Capture
from nexusfs.services.sandbox.tree import GO, READ_BYTES, Tree
from nexusfs.services.sandbox.watch import sample

log = logging.getLogger(__name__)

OVERHEAD = 2
"""Processes of a sandbox that are not the program's."""
OVERHEAD_BYTES = 32 * MIB
"""For pages of files and of Linux itself: one process meets its own limit first, and is told."""
WATCH_S = 0.03
"""Between two looks at the tree; a fork bomb makes some hundred processes in that time."""
DRAIN_LIMIT_S = 5.0
"""All writers are dead by then; the reading of what is in the pipes takes milliseconds."""


class Running:
    """Feeds a tree, reads what it says, and ends it at a limit.

    Concurrency: the tasks of `run` share `_stopped`, which is set once, by `_stop`.
    """

    def __init__(self, tree: Tree, asker: Asker, settings: SandboxSettings) -> None:
        """Nothing runs yet."""
        self._tree = tree
        self._cgroup: Cgroup | None = None
        self._asker = asker
        self._settings = settings
        self._stdout = Capture("stdout", asker, settings.reply_chars)
        self._stderr = Capture("stderr", asker, settings.reply_chars)
        self._stopped = self._note = ""
        self._timed_out = False
        self._exit_code = 0

    async def prepare(self, cgroups: Cgroups | None) -> None:
        """Suspends until the program waits to begin, held as planned. NoSandboxError."""
        fault: NoSandboxError | None = None
        async with trio.open_nursery() as nursery:
            if cgroups is not None:
                nursery.start_soon(trio.to_thread.run_sync, self._hold, cgroups)
            try:
                await self._tree.ready()
                await self._tree.check()
            except NoSandboxError as exc:  # not through the nursery, which would wrap it
                fault = exc
        if fault is not None:
            raise fault
        if self._cgroup is not None:
            await trio.to_thread.run_sync(self._hold_rest, self._cgroup)
        elif self._asker.cred.is_root:
            self._give_way()

    def _give_way(self) -> None:
        """A tree of root's that we have to watch runs only when nobody else wants to.

        Root is exempt from RLIMIT_NPROC; and of a thousand runnable processes each would take a
        slice before the one that is to end them. Source: sched(7), SCHED_IDLE.
        """
        for pid in self._tree.program():
            with contextlib.suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))

    def _hold(self, cgroups: Cgroups) -> None:
        """Puts the first process into a cgroup, while it makes the sandbox: both take 10 ms.

        Where no cgroup can be made the tree is watched. Blocks: Linux waits for all processors.
        """
        settings = self._settings
        try:
            memory = settings.memory_mb * MIB + OVERHEAD_BYTES
            cgroup = cgroups.make(memory, settings.processes + OVERHEAD)
        except OSError as exc:
            log.info("no cgroup keeps the limits of a program: %s", exc)
            return
        self._cgroup = cgroup
        if self._tree.namespace:  # a supervisor must not be in what Linux kills at the limit
            with contextlib.suppress(OSError):  # it may be gone; `_hold_rest` looks again
                cgroup.take([self._tree.root])

    def _hold_rest(self, cgroup: Cgroup) -> None:
        """Moves what was started before the first process was in the cgroup. Blocks.

        NoSandboxError when that is not possible.
        """
        try:
            members = cgroup.members()
            cgroup.take([pid for pid in self._tree.program() if pid not in members])
        except OSError as exc:
            raise NoSandboxError(f"the program cannot be put into its cgroup: {exc}") from None

    async def run(self, command: Command) -> None:
        """Lets the waiting program begin and returns when all of its tree has ended.

        Cancelling leaves the tree running: the caller ends it.
        """
        async with trio.open_nursery() as readers:
            readers.start_soon(self._read, self._tree.stdout, self._stdout)
            readers.start_soon(self._read, self._tree.stderr, self._stderr)
            async with trio.open_nursery() as watchers:
                for watcher in (self._feed, self._watch_time):
                    watchers.start_soon(watcher, command)
                for look in (self._watch_tree, self._watch_agent):
                    watchers.start_soon(look)
                self._exit_code = await self._tree.exit_code()
                watchers.cancel_scope.cancel()
            self._tree.kill()
            await self._tree.all_ended()
            readers.cancel_scope.deadline = trio.current_time() + DRAIN_LIMIT_S

    async def finish(self) -> None:
        """Completes the files of long outputs and removes the cgroup; also after a cancel."""
        await self._stdout.finish()
        await self._stderr.finish()
        if self._cgroup is not None:
            await trio.to_thread.run_sync(self._ask, self._cgroup)

    def _ask(self, cgroup: Cgroup) -> None:
        """Notes which limits of the cgroup were met, and removes it. Blocks for milliseconds."""
        settings = self._settings
        if cgroup.memory_kills():
            self._stopped = self._stopped or _over_memory(settings)
        if refused := cgroup.refused_forks():
            self._note = (
                f"{refused} times a process or thread was refused: at most {settings.processes}"
            )
        cgroup.remove()

    def ended(self, kind: SandboxKind, duration_s: float) -> Ended:
        """What came of it, after `finish`."""
        return Ended(
            self._exit_code, self._stdout.captured(), self._stderr.captured(), duration_s,
            kind, self._stopped or self._limit_of_linux(), self._timed_out, self._note,
        )  # fmt: skip

    def _stop(self, why: str) -> None:
        """Ends the tree because of a limit; the first limit is the one that is reported."""
        self._stopped = self._stopped or why
        self._tree.kill()

    def _limit_of_linux(self) -> str:
        """Which rlimit ended the program, by the signal that Linux sends."""
        if self._exit_code == 128 + signal.SIGXCPU:
            return f"it used over {self._settings.cpu_seconds} s of processor time"
        if self._exit_code == 128 + signal.SIGXFSZ:
            return f"it wrote a file of over {self._settings.file_mb} MiB"
        return ""

    # -- tasks

    async def _feed(self, command: Command) -> None:
        stdin = self._tree.stdin
        with contextlib.suppress(trio.BrokenResourceError):  # it does not want to read
            await stdin.send_all(GO + command.stdin)
        await stdin.aclose()

    async def _read(self, stream: trio.lowlevel.FdStream, capture: Capture) -> None:
        most = self._settings.output_mb * MIB
        while data := await stream.receive_some(READ_BYTES):
            if capture.size_bytes < most:
                await capture.feed(data[: most - capture.size_bytes])
            if capture.size_bytes >= most:
                self._stop(f"it wrote over {self._settings.output_mb} MiB")

    async def _watch_time(self, command: Command) -> None:
        wall_s = min(command.wall_s or self._settings.wall_seconds, self._settings.wall_seconds)
        await trio.sleep(wall_s)
        self._timed_out = not self._stopped
        self._stop(f"it took over {wall_s:g} s")

    async def _watch_tree(self) -> None:
        """Keeps the limits of the tree where no cgroup does."""
        settings, root = self._settings, self._tree.root
        while self._cgroup is None:
            await trio.sleep(WATCH_S)
            try:
                count, size = await trio.to_thread.run_sync(sample, root, settings.processes)
            except RuntimeError:  # Linux has no thread left to give
                count, size = sample(root, settings.processes)
            if count > settings.processes:
                self._stop(f"it had over {settings.processes} processes")
            elif size > settings.memory_mb * MIB:
                self._stop(_over_memory(settings))

    async def _watch_agent(self) -> None:
        self._stop(await self._asker.over())


def _over_memory(settings: SandboxSettings) -> str:
    return f"its processes had over {settings.memory_mb} MiB of memory"
