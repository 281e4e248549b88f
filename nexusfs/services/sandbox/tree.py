"""A tree of processes that one call started: its streams, its end, and how it is ended."""

import contextlib
import logging
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass

import trio

from nexusfs.contracts.errors import NoSandboxError
from nexusfs.services.sandbox.landlock import descendants
from nexusfs.services.sandbox.limits import Rlimits, SandboxSettings
from nexusfs.services.sandbox.plan import Bind

log = logging.getLogger(__name__)

READY = b"ready\n"
GO = b"go\n"
NICE = 10
"""Programs give way to the mount, which has to answer, and to end them, whatever they do."""
START_LIMIT_S = 20.0
"""A start takes 15 ms; a machine under load some more."""
END_LIMIT_S = 10.0
READ_BYTES = 1 << 16
SAID_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be started.

    Attributes:
        argv, environment: as for execve(2).
        cwd: as the program sees it.
        binds: what of the mount there is, and where.
        mountpoint: where the host has the mount.
        uid, gid, groups: whose processes they are.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    cwd: str
    binds: tuple[Bind, ...]
    mountpoint: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    settings: SandboxSettings
    rlimits: Rlimits


class Tree(ABC):
    """The processes of one call, from the start of the first to the end of the last.

    Attributes:
        root: host pid of the first process, below which all others are; 0 before it is known.
        namespace: inode of their own PID namespace; 0 for none.
        process: the child that says how the program ended.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """The tree that `process` begins; its three streams are pipes."""
        assert process.stdin and process.stdout and process.stderr
        self.process = process
        self.root = 0
        self.namespace = 0
        self._pidfd = os.pidfd_open(process.pid)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        self.stdin = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
        self.stdout = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        self.stderr = trio.lowlevel.FdStream(os.dup(process.stderr.fileno()))
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

    @abstractmethod
    async def find_root(self) -> None:
        """Sets `root` and `namespace`. NoSandboxError when it does not come to that."""

    @abstractmethod
    async def check(self) -> None:
        """NoSandboxError when the sandbox is not as planned; the program has not begun yet."""

    @abstractmethod
    def kill(self) -> None:
        """Ends all processes, whatever they do. Returns at once; a second time is nothing."""

    @abstractmethod
    async def all_ended(self) -> None:
        """Suspends until no process of the tree is left."""

    async def ready(self) -> None:
        """Suspends until the program waits to begin. NoSandboxError when it never does."""
        said = b""
        while not said.endswith(b"\n"):
            piece = await self.stdout.receive_some(len(READY) - len(said))
            if not piece:
                break
            said += piece
        if said != READY:
            raise NoSandboxError(f"the sandbox could not be made: {await self.complaint()}")

    def program(self) -> list[int]:
        """The processes that the program will be and come from, while it waits to begin."""
        return descendants(self.root)

    async def complaint(self) -> str:
        """What a start that failed says about it, in one line."""
        said = b""
        with trio.move_on_after(1):
            while piece := await self.stderr.receive_some(READ_BYTES):
                said += piece
        return said[-SAID_BYTES:].decode("utf-8", "replace").strip() or "it says nothing"

    async def exit_code(self) -> int:
        """Suspends until the program has ended: 0 to 255, 128 + n after signal n."""
        await trio.lowlevel.wait_readable(self._pidfd)
        code = self.process.wait()
        return 128 - code if code < 0 else code

    async def end(self) -> bool:
        """Ends all processes and waits for that; False when they do not end in time."""
        self.kill()
        with trio.move_on_after(END_LIMIT_S) as limit:
            await self.exit_code()
            await self.all_ended()
        if limit.cancelled_caught:
            log.error("the processes of sandbox %d do not end", self.process.pid)
        for stream in (self.stdin, self.stdout, self.stderr):
            await stream.aclose()
        trio.lowlevel.notify_closing(self._pidfd)
        os.close(self._pidfd)
        return not limit.cancelled_caught


def signal_by_fd(pidfd: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
