"""Programs held by bubblewrap: namespaces of their own for files, processes, network, users.

Source: bwrap(1).
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import trio

from nexusfs.contracts.errors import NoSandboxError
from nexusfs.contracts.rights import Grant
from nexusfs.contracts.sandbox import SandboxKind
from nexusfs.contracts.tool import ToolFiles
from nexusfs.services.sandbox.limits import MIB, Rlimits
from nexusfs.services.sandbox.mountinfo import mount_at, mounted
from nexusfs.services.sandbox.plan import Bind, binds_of, inside
from nexusfs.services.sandbox.seccomp import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    seccomp_filter,
)
from nexusfs.services.sandbox.tree import Job, Tree, signal_by_fd

PROBE_LIMIT_S = 10.0
HOLD = ("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--hostname",
        "nexus", "--die-with-parent", "--new-session", "--cap-drop", "ALL")  # fmt: skip
USERS = (("--unshare-user", "--disable-userns"), ("--unshare-user",), ("--unshare-user-try",))
"""From the best to what an older bubblewrap and a root without user namespaces can."""
ROOT_NAMES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = ("alternatives", "ca-certificates", "group", "java-11-openjdk", "java-17-openjdk",
       "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types",
       "nsswitch.conf", "passwd", "pki", "protocols", "python3", "services", "ssl/certs",
       "ssl/openssl.cnf", "terminfo")  # fmt: skip
"""What programs read at every start, and nothing that is secret."""
ETC_NETWORK = ("gai.conf", "host.conf", "hosts", "resolv.conf")


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """A bubblewrap that works here.

    Attributes:
        path: the program.
        users: the options that give it a user namespace.
    """

    path: str
    users: tuple[str, ...]
    kind: ClassVar[SandboxKind] = "bwrap"

    async def plan(self, files: ToolFiles, grants: Sequence[Grant]) -> list[Bind]:
        """What of the mount is bound. Suspends where the files do."""
        return await binds_of(files, grants)

    def inside(self, path: str, mountpoint: str) -> str:
        """What a path of the mount tree is called inside."""
        return inside(path)

    def launch(self, job: Job) -> "BwrapTree":
        """Starts bubblewrap; the program waits inside. Does not suspend: it takes 1 to 3 ms.

        subprocess.Popen in this thread and not trio's open_process: bubblewrap asks Linux to be
        killed when the thread that made it dies (prctl(2), PR_SET_PDEATHSIG).

        Raises:
            NoSandboxError: EOPNOTSUPP, it cannot be started.
        """
        info_read, info_write = os.pipe()
        families = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK]
        filter_read = _pipe_with(seccomp_filter(families))
        fds = [info_write] + ([filter_read] if filter_read is not None else [])
        try:
            process = subprocess.Popen(
                [self.path, *self._options(job, info_write, filter_read), "--", *_stub(job)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=job.environment, cwd="/", pass_fds=fds, **_user(job),
            )  # fmt: skip
        except (OSError, ValueError) as exc:
            os.close(info_read)
            raise NoSandboxError(f"bubblewrap cannot be started: {exc}") from None
        finally:
            for fd in fds:
                os.close(fd)
        return BwrapTree(process, info_read, job)

    def _options(self, job: Job, info: int, seccomp: int | None) -> list[str]:
        settings = job.settings
        options = [*HOLD, *self.users, "--info-fd", str(info)]
        if seccomp is not None:
            options += ["--seccomp", str(seccomp)]
        if not settings.network:
            options.append("--unshare-net")
        options += _host_files(network=settings.network, share=settings.share)
        options += ["--dev", "/dev", "--size", str(settings.tmp_mb * MIB), "--tmpfs", "/dev/shm",
                    "--remount-ro", "/dev", "--proc", "/proc", "--remount-ro", "/proc",
                    "--perms", "1777", "--size", str(settings.tmp_mb * MIB), "--tmpfs", "/tmp",
                    "--symlink", "../tmp", "/var/tmp", "--dir", "/run"]  # fmt: skip
        for bind in job.binds:
            how = "--bind" if bind.access == "rw" else "--ro-bind"
            options += [how, job.mountpoint + bind.source.rstrip("/"), bind.place]
        return [*options, "--remount-ro", "/", "--chdir", job.cwd]


class BwrapTree(Tree):
    """Bubblewrap outside, its first process inside (the root), the program below that."""

    def __init__(self, process: "subprocess.Popen[bytes]", info: int, job: Job) -> None:
        """`info` is where bubblewrap says what it made; it is closed here."""
        super().__init__(process)
        self._info = trio.lowlevel.FdStream(info)
        self._job = job
        self._rootfd = -1

    async def find_root(self) -> None:
        """Reads what bubblewrap says of its first process. NoSandboxError."""
        said = b""
        async with self._info:
            while piece := await self._info.receive_some():
                said += piece
        try:
            told = json.loads(said)
            self._rootfd = os.pidfd_open(told["child-pid"])
            self.root, self.namespace = told["child-pid"], told["pid-namespace"]
        except (ValueError, KeyError, OSError):
            why = await self.complaint()
            raise NoSandboxError(f"the sandbox could not be made: {why}") from None

    async def check(self) -> None:
        """Compares the mounts inside with the plan: a directory may have been swapped meanwhile.

        bubblewrap follows symlinks of a path that it binds, and with `/oldroot/…` they would
        lead to the host. So what counts is what Linux says is mounted.
        """
        found = mounted(self.root)
        ours = mount_at(self._job.mountpoint)
        for bind in self._job.binds:
            if ours is None or found.get(bind.place) != replace(ours, root=bind.source):
                raise NoSandboxError(
                    f"{bind.source} changed while the sandbox was made: it is no plain directory "
                    "of the mount any more; try again"
                )

    def kill(self) -> None:
        """Ends the first process inside, and with it, by Linux, its whole PID namespace."""
        if self._rootfd >= 0:
            signal_by_fd(self._rootfd, signal.SIGKILL)
        else:
            self.process.kill()

    async def all_ended(self) -> None:
        """Suspends until the root is gone, which ends after all the others."""
        if self._rootfd >= 0:
            await trio.lowlevel.wait_readable(self._rootfd)

    async def end(self) -> bool:
        """See `Tree.end`."""
        ended = await super().end()
        await self._info.aclose()
        if self._rootfd >= 0:
            trio.lowlevel.notify_closing(self._rootfd)
            os.close(self._rootfd)
            self._rootfd = -1
        return ended


def find_bubblewrap() -> Bubblewrap:
    """The bubblewrap of this machine, tried out. Blocks for 10 ms.

    Raises:
        NoSandboxError: it is not installed or not allowed here; says which.
    """
    path = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if path is None:
        raise NoSandboxError("bubblewrap is not installed (apt-get install bubblewrap)")
    said = ""
    for users in USERS:
        if users == USERS[-1] and os.geteuid() != 0:
            break
        try:
            done = subprocess.run(
                [path, *HOLD, *users, "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc",
                 "--remount-ro", "/proc", "--perms", "1777", "--size", "4096", "--tmpfs", "/tmp",
                 "--", "true"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                env={"PATH": "/usr/bin:/bin"}, cwd="/", check=False, timeout=PROBE_LIMIT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise NoSandboxError(f"bubblewrap does not run here: {exc}") from None
        if done.returncode == 0:
            return Bubblewrap(path, users)
        said = said or done.stderr.strip()
    raise NoSandboxError(f"bubblewrap does not work here: {said}")


def _host_files(*, network: bool, share: tuple[str, ...]) -> list[str]:
    """The options that show the host's programs and libraries, read-only."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ROOT_NAMES:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for name in (*ETC, *(ETC_NETWORK if network else ())):
        path = Path("/etc", name)
        if path.exists():
            options += ["--ro-bind", str(path.resolve()), str(path)]
    for shared in share:
        options += ["--ro-bind", shared, shared]
    return options


def _stub(job: Job) -> list[str]:
    """A shell that sets the limits, waits for a line of its input, and becomes the program."""
    return ["/bin/sh", "-c", _script(job.rlimits), "sh", *job.argv]


def _script(limits: Rlimits) -> str:
    """Source: POSIX sh, ulimit; -u is bash's and -p dash's and busybox's word for processes."""
    return (
        f"ulimit -c 0; ulimit -f {limits.file_bytes // 512}; ulimit -t {limits.cpu_s}; "
        f"ulimit -d {limits.data_bytes // 1024}; ulimit -n {limits.open_files}; "
        f"{{ ulimit -u {limits.processes} || ulimit -p {limits.processes}; }} 2>/dev/null; "
        'echo ready; read -r go || exit 1; exec "$@"'
    )


def _user(job: Job) -> dict[str, Any]:
    """What makes Popen change to the job's user: root's privilege, and need."""
    if os.geteuid() != 0 or job.uid == 0:
        return {}
    return {"user": job.uid, "group": job.gid, "extra_groups": job.groups}


def _pipe_with(content: bytes | None) -> int | None:
    """The reading end of a pipe that holds `content`, which is less than a pipe takes."""
    if content is None:
        return None
    read_end, write_end = os.pipe()
    os.write(write_end, content)
    os.close(write_end)
    return read_end
