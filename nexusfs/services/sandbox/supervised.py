"""Programs under a supervisor of ours: held by Landlock, or by nothing but limits."""

import base64
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from nexusfs.contracts.errors import NoSandboxError
from nexusfs.contracts.rights import Grant
from nexusfs.contracts.sandbox import SandboxKind
from nexusfs.contracts.tool import ToolFiles
from nexusfs.services.sandbox import landlock
from nexusfs.services.sandbox.plan import Bind, rules_of
from nexusfs.services.sandbox.seccomp import AF_INET, AF_INET6, AF_NETLINK, seccomp_filter
from nexusfs.services.sandbox.tree import Job, Tree

READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives",
            "/etc/ca-certificates", "/etc/group", "/etc/ld.so.cache", "/etc/localtime",
            "/etc/mime.types", "/etc/nsswitch.conf", "/etc/passwd", "/etc/ssl/certs",
            "/etc/ssl/openssl.cnf", "/etc/terminfo")  # fmt: skip
READABLE_NETWORK = ("/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/resolv.conf")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Starts programs by `landlock.py`; `restrict` False leaves out everything but limits."""

    restrict: bool

    @property
    def kind(self) -> SandboxKind:
        """What status shows."""
        return "landlock" if self.restrict else "none"

    async def plan(self, files: ToolFiles, grants: Sequence[Grant]) -> list[Bind]:
        """What of the mount is granted. Suspends where the files do."""
        return await rules_of(files, grants)

    def inside(self, path: str, mountpoint: str) -> str:
        """What a path of the mount tree is called: the host's name, for the root is the host's."""
        return mountpoint + path.rstrip("/")

    def launch(self, job: Job) -> "SupervisedTree":
        """Starts the supervisor; the program waits under it. Does not suspend.

        Raises:
            NoSandboxError: EOPNOTSUPP, it cannot be started.
        """
        life_read, life_write = os.pipe()
        told = json.dumps(self._told(job, life_read))
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", landlock.__file__, told],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin"}, cwd="/", pass_fds=[life_read],
                start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            os.close(life_write)
            raise NoSandboxError(f"the supervisor cannot be started: {exc}") from None
        finally:
            os.close(life_read)
        return SupervisedTree(process, life_write)

    def _told(self, job: Job, life: int) -> dict[str, object]:
        network = job.settings.network
        families = (AF_INET, AF_INET6, AF_NETLINK) if network else ()
        readable = [*READABLE, *(READABLE_NETWORK if network else ()), *job.settings.share]
        paths = [[os.path.realpath(path), "r"] for path in readable]
        paths += [[path, "rw"] for path in DEVICES]
        paths += [[job.mountpoint + bind.source, bind.access] for bind in job.binds]
        return {
            "life": life, "restrict": self.restrict, "network": network, "paths": paths,
            "seccomp": base64.b64encode(seccomp_filter(families) or b"").decode(),
            "uid": job.uid, "gid": job.gid, "groups": list(job.groups), "argv": list(job.argv),
            "environment": job.environment, "cwd": job.cwd,
            "limits": dataclasses.asdict(job.rlimits),
        }  # fmt: skip


class SupervisedTree(Tree):
    """The supervisor (the root) and all below it; it ends last."""

    def __init__(self, process: "subprocess.Popen[bytes]", life: int) -> None:
        """`life`: while it is open the supervisor lets the program be."""
        super().__init__(process)
        self.root = process.pid
        self._life = life

    async def find_root(self) -> None:
        """It is known from the start."""
        await trio.lowlevel.checkpoint()

    async def check(self) -> None:
        """Landlock's rules name what was opened, so nothing can have been swapped."""
        await trio.lowlevel.checkpoint()

    def kill(self) -> None:
        """Lets the supervisor end everything."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    async def all_ended(self) -> None:
        """The supervisor ends last, so there is nothing to wait for."""
        await trio.lowlevel.checkpoint()


def find_landlock() -> Supervisor:
    """A supervisor that restricts. NoSandboxError when Landlock is missing or old here."""
    abi = landlock.landlock_abi()
    if abi < landlock.NEEDED_ABI:
        have = f"version {abi}" if abi else "none"
        raise NoSandboxError(
            f"Landlock here is too old: {have}, and {landlock.NEEDED_ABI} (Linux 6.12) is needed"
        )
    if seccomp_filter(()) is None:
        raise NoSandboxError("the system calls of this architecture are not known to the filter")
    return Supervisor(restrict=True)
