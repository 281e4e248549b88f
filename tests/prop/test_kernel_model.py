"""Random system calls of three users, here and in a directory of the host: results and errnos.

The host's side runs with the user's effective ids, so it needs root; anybody else compares what
he himself may do.

More examples: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_kernel_model.py`.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.node import Change, Stat
from nexusfs.drivers.store_local import open_store
from nexusfs.fs.storefs import StoreFS
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.vfs.files import Vfs
from nexusfs.kernel.vfs.mounts import MountTable
from nexusfs.kernel.vfs.watch import Watch
from tests.kernel_fixture import BareDispatcher, MemoryJournal

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "60"))
TEAM = 60_500
BASE = "/w/x/y/z"
"""Where calls act: `..` in paths and symlinks does not lead out of what both sides have."""

ME = Credentials(os.geteuid(), os.getegid(), groups=frozenset(os.getgroups()))
USERS = [ME]
if ME.is_root:
    USERS += [
        Credentials(60_001, 60_001, groups=frozenset({TEAM})),
        Credentials(60_002, 60_002, groups=frozenset({TEAM})),
    ]
IDS = sorted({cred.uid for cred in USERS} | {TEAM})

libc = ctypes.CDLL(None, use_errno=True)


def sysctl(name: str) -> int:
    """A switch of Linux that makes it stricter than POSIX."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/sys/fs/{name}").read_text())
    return 0


STICKY = () if sysctl("protected_regular") or sysctl("protected_symlinks") else (0o1777, 0o1770)
HARDLINKS_RESTRICTED = bool(sysctl("protected_hardlinks"))


@dataclass(frozen=True)
class Op:
    """One system call of one user."""

    who: int
    call: str
    args: tuple[Any, ...]


NAMES = st.sampled_from(["a", "b", "c"])
PARTS = st.lists(st.sampled_from(["a", "a", "b", "b", "c", ".", ".."]), min_size=1, max_size=3)
PATHS = st.one_of(
    NAMES, NAMES,
    st.tuples(PARTS, st.sampled_from(["", "", "", "", "/"])).map(
        lambda parts: "/".join(parts[0]) + parts[1]
    ).filter(lambda path: path.split("/").count("..") <= 2),
)  # fmt: skip
TARGETS = st.sampled_from(["a", "b", "b/c", "a/", ".", "..", "../z/c", "nowhere/x"])
DIR_MODES = st.sampled_from([0o777, 0o777, 0o755, 0o700, 0o711, 0o2775, 0o770, 0o557, *STICKY])
FILE_MODES = st.sampled_from([0o666, 0o644, 0o600, 0o4755, 0o2755, 0o2644, 0o6777, 0o062, 0, 0o755])
FLAGS = st.tuples(
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]),
    st.sampled_from([0, 0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL]),
    st.sampled_from([0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY]),
).map(lambda flags: flags[0] | (0 if flags[2] == os.O_DIRECTORY else flags[1]) | flags[2])
"""Without O_CREAT | O_DIRECTORY, which Linux has refused only since 6.4."""
OWNERS = st.sampled_from([None, *IDS])
FOLLOW = st.booleans()
TIMES = st.sampled_from([None, (5, 7_000_000_001)])
DATA = st.binary(max_size=20)

CALLS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "mkdir": st.tuples(PATHS, DIR_MODES),
    "open": st.tuples(PATHS, FLAGS, FILE_MODES, DATA),
    "symlink": st.tuples(PATHS, TARGETS),
    "link": st.tuples(PATHS, PATHS),
    "unlink": st.tuples(PATHS),
    "rmdir": st.tuples(PATHS),
    "rename": st.tuples(PATHS, PATHS, st.sampled_from([0, 0, 0, 1, 2])),
    "chmod": st.tuples(PATHS, st.one_of(DIR_MODES, FILE_MODES)),
    "chown": st.tuples(PATHS, OWNERS, OWNERS, FOLLOW).filter(
        lambda args: args[1:3] != (None, None)
    ),
    "truncate": st.tuples(PATHS, st.integers(-1, 30)),
    "utime": st.tuples(PATHS, TIMES),
    "stat": st.tuples(PATHS, FOLLOW),
    "access": st.tuples(PATHS, st.integers(0, 7)),
    "listdir": st.tuples(PATHS),
    "readlink": st.tuples(PATHS),
}
OPS = st.one_of(
    *(
        st.builds(Op, st.integers(0, len(USERS) - 1), st.just(call), args)
        for call, args in CALLS.items()
    )
)


def shown(st: os.stat_result | Stat) -> tuple[int, ...]:
    """The attributes that both sides must agree on; a directory's size is the disk's affair."""
    if isinstance(st, Stat):
        mode, uid, gid, nlink, size = st.mode, st.uid, st.gid, st.nlink, st.size
    else:
        mode, uid, gid, nlink, size = st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size
    return (mode, uid, gid, nlink, 0 if stat.S_ISDIR(mode) else size)


class Host:
    """The calls in a directory of the host."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def at(self, path: str) -> str:
        return f"{self.top}{BASE}/{path}"

    @contextlib.contextmanager
    def acting_as(self, cred: Credentials) -> Iterator[None]:
        if cred is ME:
            yield
            return
        os.setgroups(sorted(cred.groups))
        os.setegid(cred.gid)
        os.seteuid(cred.uid)
        try:
            yield
        finally:
            os.seteuid(ME.uid)
            os.setegid(ME.gid)
            os.setgroups(sorted(ME.groups))

    def do(self, op: Op) -> tuple[str, Any]:
        with self.acting_as(USERS[op.who]):
            try:
                return "ok", getattr(self, op.call)(*op.args)
            except OSError as exc:
                return "error", errno.errorcode[exc.errno or 0]

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def open(self, path: str, flags: int, mode: int, data: bytes) -> Any:
        fd = os.open(self.at(path), flags, mode)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return "directory"
            if flags & os.O_ACCMODE != os.O_RDONLY and data:
                os.pwrite(fd, data, 3)
            read = os.pread(fd, 99, 0) if flags & os.O_ACCMODE != os.O_WRONLY else b""
            return read, shown(os.fstat(fd))
        finally:
            os.close(fd)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self.at(path))

    def link(self, old: str, new: str) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        if libc.renameat2(-100, self.at(old).encode(), -100, self.at(new).encode(), flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: str, uid: int | None, gid: int | None, follow: bool) -> None:
        ids = (-1 if uid is None else uid, -1 if gid is None else gid)
        os.chown(self.at(path), *ids, follow_symlinks=follow)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    def utime(self, path: str, times: tuple[int, int] | None) -> Any:
        os.utime(self.at(path), ns=times) if times else os.utime(self.at(path))
        return os.stat(self.at(path)).st_mtime_ns if times else None

    def stat(self, path: str, follow: bool) -> Any:
        return shown(os.stat(self.at(path), follow_symlinks=follow))

    def access(self, path: str, mask: int) -> bool:
        os.stat(self.at(path))
        return os.access(self.at(path), mask, effective_ids=True)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self.at(path)))

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))


class Ours:
    """The same calls here."""

    def __init__(self, calls: Syscalls) -> None:
        self.calls = calls
        self.cred = ME

    def at(self, path: str) -> str:
        return f"{BASE}/{path}"

    async def do(self, op: Op) -> tuple[str, Any]:
        self.cred = USERS[op.who]
        try:
            return "ok", await getattr(self, op.call)(*op.args)
        except KernelError as exc:
            assert self.calls.gate.crashes == 0, exc
            return "error", errno.errorcode[exc.errno]

    async def mkdir(self, path: str, mode: int) -> None:
        await self.calls.sys_mkdir(self.cred, self.at(path), mode)

    async def open(self, path: str, flags: int, mode: int, data: bytes) -> Any:
        opened = await self.calls.sys_open(self.cred, self.at(path), flags, mode)
        try:
            if (await opened.node.stat()).is_dir:
                return "directory"
            if flags & os.O_ACCMODE != os.O_RDONLY and data:
                await self.calls.sys_write(opened.fd, data, 3)
            readable = flags & os.O_ACCMODE != os.O_WRONLY
            read = await self.calls.sys_read(opened.fd, 99, 0) if readable else b""
            return read, shown(await opened.node.stat())
        finally:
            await self.calls.sys_close(opened.fd)

    async def symlink(self, path: str, target: str) -> None:
        await self.calls.sys_symlink(self.cred, target.encode(), self.at(path))

    async def link(self, old: str, new: str) -> None:
        await self.calls.sys_link(self.cred, self.at(old), self.at(new))

    async def unlink(self, path: str) -> None:
        await self.calls.sys_unlink(self.cred, self.at(path))

    async def rmdir(self, path: str) -> None:
        await self.calls.sys_rmdir(self.cred, self.at(path))

    async def rename(self, old: str, new: str, flags: int) -> None:
        await self.calls.sys_rename(self.cred, self.at(old), self.at(new), flags)

    async def change(self, path: str, change: Change, *, follow: bool = True) -> Stat:
        return await self.calls.sys_setattr(self.cred, self.at(path), change, follow=follow)

    async def chmod(self, path: str, mode: int) -> None:
        await self.change(path, Change(mode=mode))

    async def chown(self, path: str, uid: int | None, gid: int | None, follow: bool) -> None:
        await self.change(path, Change(uid=uid, gid=gid), follow=follow)

    async def truncate(self, path: str, size: int) -> None:
        await self.change(path, Change(size=size))

    async def utime(self, path: str, times: tuple[int, int] | None) -> Any:
        if times is None:
            await self.change(path, Change(touch=True))
            return None
        return (await self.change(path, Change(atime_ns=times[0], mtime_ns=times[1]))).mtime_ns

    async def stat(self, path: str, follow: bool) -> Any:
        return shown(await self.calls.sys_stat(self.cred, self.at(path), follow=follow))

    async def access(self, path: str, mask: int) -> bool:
        return await self.calls.sys_access(self.cred, self.at(path), mask)

    async def listdir(self, path: str) -> list[str]:
        entries = await self.calls.sys_readdir(self.cred, self.at(path))
        return sorted(entry.name.decode() for entry in entries)

    async def readlink(self, path: str) -> str:
        return (await self.calls.sys_readlink(self.cred, self.at(path))).decode()


@contextlib.contextmanager
def both_sides() -> Iterator[tuple[Host, Ours]]:
    """Two empty trees: BASE, everybody's."""
    scratch = Path(tempfile.mkdtemp(prefix="nexusfs-model-"))
    umask = os.umask(0)
    store = open_store(scratch / "store")
    try:
        scratch.chmod(0o755)
        (scratch / "tree").mkdir(0o755)
        Path(f"{scratch}/tree{BASE}").mkdir(parents=True, mode=0o777)
        table = BareDispatcher().table
        processes = ProcessTable(MemoryJournal(), table.all_names)
        vfs = Vfs(MountTable(StoreFS(store).root), Watch())
        yield Host(scratch / "tree"), Ours(Syscalls(vfs, processes, table))
    finally:
        store.close()
        os.umask(umask)
        shutil.rmtree(scratch)


async def make_base(host: Host, ours: Ours) -> None:
    names = BASE.strip("/").split("/")
    for depth in range(len(names) + 1):
        path = "/" + "/".join(names[:depth])
        mode = 0o777 if depth == len(names) else 0o755
        os.chmod(f"{host.top}{path}", mode)
        os.chown(f"{host.top}{path}", ME.uid, ME.gid)
        if depth:
            await ours.calls.sys_mkdir(ME, path, mode)
        await ours.calls.sys_setattr(ME, path, Change(mode=mode, uid=ME.uid, gid=ME.gid))


async def compare_trees(host: Host, ours: Ours, path: str = "") -> None:
    """What root sees of every file."""
    for call, args in (("stat", (path, False)), ("readlink", (path,)), ("listdir", (path,))):
        op = Op(0, call, args)
        expected = host.do(op)
        assert await ours.do(op) == expected, f"{call} {path}"
    found = host.do(Op(0, "stat", (path, False)))
    assert found[0] == "ok"
    if stat.S_ISDIR(found[1][0]):
        for name in host.do(Op(0, "listdir", (path,)))[1]:
            await compare_trees(host, ours, f"{path}/{name}" if path else name)
    elif stat.S_ISREG(found[1][0]):
        op = Op(0, "open", (path, os.O_RDONLY, 0, b""))
        assert await ours.do(op) == host.do(op), f"content of {path}"


def is_restricted(host: Host, op: Op) -> bool:
    """True for a hard link to what is somebody else's, which Linux may forbid beyond POSIX."""
    if op.call != "link" or not HARDLINKS_RESTRICTED or USERS[op.who].is_root:
        return False
    with contextlib.suppress(OSError):
        return os.lstat(host.at(op.args[0])).st_uid != USERS[op.who].uid
    return False


def any_error_will_do(op: Op) -> bool:
    """True when several errors may apply at once, of which POSIX lets a system choose.

    Source: POSIX.1-2024, System Interfaces, 2.3 Error Numbers.
    """
    paths = [arg for arg in op.args[:2] if isinstance(arg, str)]
    special = any(path.rpartition("/")[2] in ("", ".", "..") for path in paths)
    return special or (op.call == "rename" and op.args[2] != 0) or op.args[1:2] == (-1,)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(OPS, max_size=40))
def test_system_calls_do_what_the_hosts_do(ops: list[Op]) -> None:
    async def main() -> None:
        await make_base(host, ours)
        for op in ops:
            if is_restricted(host, op):
                continue
            expected = host.do(op)
            found = await ours.do(op)
            if found[0] == expected[0] == "error" and any_error_will_do(op):
                continue
            assert found == expected, f"{op}: we gave {found}, the host {expected}"
        await compare_trees(host, ours)

    with both_sides() as (host, ours):
        trio.run(main)
