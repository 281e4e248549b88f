"""Sandboxes: what can hold programs here, and the running of one to its end."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from nexusfs.contracts.errors import CapacityError, NoSandboxError
from nexusfs.contracts.rights import EVERYTHING, Grant
from nexusfs.contracts.sandbox import Command, Ended, SandboxKind
from nexusfs.contracts.tool import ToolFiles
from nexusfs.services.sandbox.asker import Asker
from nexusfs.services.sandbox.bwrap import find_bubblewrap
from nexusfs.services.sandbox.callers import Callers
from nexusfs.services.sandbox.cgroup import Cgroups, find_cgroups
from nexusfs.services.sandbox.limits import Rlimits, SandboxSettings
from nexusfs.services.sandbox.mountinfo import mount_at
from nexusfs.services.sandbox.plan import Bind, is_directory
from nexusfs.services.sandbox.running import Running
from nexusfs.services.sandbox.supervised import Supervisor, find_landlock
from nexusfs.services.sandbox.tree import START_LIMIT_S, Job, Tree

log = logging.getLogger(__name__)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOUNT_LOOK_S, MOUNT_LOOKS = 0.05, 400
REFUSED = "programs are not run here"


class Holder(Protocol):
    """A way to hold programs."""

    @property
    def kind(self) -> SandboxKind:
        """What status shows."""
        ...

    def launch(self, job: Job) -> Tree:
        """Starts one; it waits to begin. Does not suspend. NoSandboxError."""
        ...

    async def plan(self, files: ToolFiles, grants: Sequence[Grant]) -> list[Bind]:
        """What of the mount it is given."""
        ...

    def inside(self, path: str, mountpoint: str) -> str:
        """What a path of the mount tree is called inside."""
        ...


class Sandboxes:
    """Runs the programs of one kernel.

    Attributes:
        callers: whose the processes of living sandboxes are.
        kind: what holds an agent's program; `off` before `find`, and where nothing does.
    """

    def __init__(self, settings: SandboxSettings, mountpoint: str) -> None:
        """`mountpoint` is where the host has the mount, symlinks resolved; empty for none."""
        self.settings = settings
        self.callers = Callers()
        self.mountpoint = mountpoint
        self._holder: Holder | None = None
        self._cgroups: Cgroups | None = None
        self._why = REFUSED
        self._running: Counter[int] = Counter()

    @property
    def kind(self) -> SandboxKind:
        """See the class."""
        return self._holder.kind if self._holder else "off"

    async def find(self) -> str:
        """Finds out what holds programs here; a sentence when it is not the best there is.

        Suspends while bubblewrap and cgroups are tried out, 20 ms.
        """
        faults: list[str] = []
        settings = self.settings
        self._cgroups = await trio.to_thread.run_sync(find_cgroups)
        if settings.bubblewrap:
            try:
                self._holder = await trio.to_thread.run_sync(find_bubblewrap)
                return ""
            except NoSandboxError as exc:
                faults.append(str(exc))
        if settings.landlock:
            try:
                self._holder = find_landlock()
                return "; ".join([*faults, "Landlock holds programs, see the README for how well"])
            except NoSandboxError as exc:
                faults.append(str(exc))
        if settings.none:
            self._holder = Supervisor(restrict=False)
            return "; ".join([*faults, "programs run unheld, as [sandbox] none = true says"])
        self._why = "; ".join(
            [*faults, f"{REFUSED} without a sandbox unless [sandbox] none = true is configured"]
        )
        return self._why

    def are_left_over(self) -> bool:
        """True when sandboxes live and the mount that they are of is not mounted any more."""
        return len(self.callers) > 0 and mount_at(self.mountpoint) is None

    def programs_of(self, asker: Asker) -> "AskersPrograms":
        """The seam that the tools of one call hold."""
        return AskersPrograms(self, asker)

    async def run(self, asker: Asker, command: Command) -> Ended:
        """Runs a program with the asker's rights. See `Programs.run`."""
        if self._holder is None:
            raise NoSandboxError(self._why)
        with self._place(asker.cred.uid):
            job = await self._job(self._holder, asker, command)
            began = trio.current_time()
            tree = self._holder.launch(job)
            running = Running(tree, asker, job.settings)
            known = False
            try:
                with trio.move_on_after(START_LIMIT_S) as limit:
                    await tree.find_root()
                    self.callers.add(tree.root, tree.namespace, asker.cred.agent_pid)
                    known = True
                    await running.prepare(self._cgroups if job.settings.cgroups else None)
                if limit.cancelled_caught:
                    raise NoSandboxError(f"the sandbox was not ready in {START_LIMIT_S:g} s")
                await running.run(command)
            finally:
                with trio.CancelScope(shield=True):
                    if await tree.end() and known:
                        self.callers.remove(tree.root, tree.namespace)
                    await running.finish()
            return running.ended(self._holder.kind, trio.current_time() - began)

    @contextmanager
    def _place(self, uid: int) -> Iterator[None]:
        """One of the user's places. CapacityError EAGAIN when all are taken."""
        if self._running[uid] >= self.settings.calls_per_user:
            raise CapacityError(
                f"{self._running[uid]} of your programs run: wait until one has ended"
            )
        self._running[uid] += 1
        try:
            yield
        finally:
            self._running[uid] -= 1

    async def _job(self, holder: Holder, asker: Asker, command: Command) -> Job:
        mountpoint = self.mountpoint
        await self._mounted()
        cred = asker.cred
        if os.geteuid() != 0 and cred.uid != os.geteuid():
            raise NoSandboxError(
                f"only root's mount can run programs as another user (you are {cred.uid}, the "
                f"mount is {os.geteuid()}'s)"
            )
        if holder.kind == "none" and asker.grants() != EVERYTHING:
            raise NoSandboxError("nothing here holds a program to the paths of its agent")
        return Job(
            command.argv,
            await self._environment(holder, asker, mountpoint),
            holder.inside(command.cwd, mountpoint),
            tuple(await holder.plan(asker.files, asker.grants())),
            mountpoint, cred.uid, cred.gid, tuple(sorted(cred.groups)),
            self.settings, Rlimits.of(self.settings),
        )  # fmt: skip

    async def _mounted(self) -> None:
        """Suspends until the mount is there: agents go on a little before it is. NoSandboxError."""
        for _ in range(MOUNT_LOOKS if self.mountpoint else 0):
            if mount_at(self.mountpoint) is not None:
                return
            await trio.sleep(MOUNT_LOOK_S)
        raise NoSandboxError(
            "programs need a mount, for they see files through it: nexusfs mount DIR"
        )

    async def _environment(self, holder: Holder, asker: Asker, mountpoint: str) -> dict[str, str]:
        home = f"/home/{asker.name}"
        has_home = bool(asker.name) and await is_directory(asker.files, home)
        return {
            "PATH": PATH,
            "HOME": holder.inside(home, mountpoint) if has_home else "/tmp",
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",
            "TERM": "dumb",
            "SHELL": "/bin/sh",
            "NEXUSFS_MNT": holder.inside("/", mountpoint),
        }


@dataclass(frozen=True, slots=True)
class AskersPrograms:
    """`Programs` for one asker."""

    sandboxes: Sandboxes
    asker: Asker

    async def run(self, command: Command) -> Ended:
        """See `Programs.run`."""
        return await self.sandboxes.run(self.asker, command)
