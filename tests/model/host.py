"""The calls in a directory, each made by a process of the user who calls.

`python -m tests.model.host UID GID GROUP,...` is such a process: pickled (root, call, args) on
stdin, pickled results on stdout. So no thread of the test ever changes its user.
"""

import contextlib
import ctypes
import errno
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol, TypeVar

from nexusfs.contracts.cred import Credentials
from tests.model.ops import BASE, CONTENT_BYTES, TOP, USERS, Entry, Op, Result, Tree, data

_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """One side: calls below `root`, which has BASE."""

    def __init__(self, root: str) -> None:
        self.root = root

    def do(self, op: Op) -> Result:
        """Makes the call as its user."""
        result: Result = _worker(USERS[op.who]).ask((self.root, op.call, op.args))
        return result

    def tree(self) -> Tree:
        """All that is there, as the first user (root, if it may be) sees it."""
        found: Tree = self.do(Op(0, "tree", ()))[1]
        return found

    def is_special(self, path: str) -> bool:
        """True when an open of the path would not be one of a file or directory."""
        kind, st = self.do(Op(0, "kind", (path,)))
        return kind == "ok" and st not in (stat.S_IFREG, stat.S_IFDIR)

    def owner(self, path: str) -> int | None:
        """Who owns what is at a path, if anything is."""
        kind, uid = self.do(Op(0, "lowner", (path,)))
        return uid if kind == "ok" else None

    def forget(self) -> None:
        """Closes all handles."""
        for who in range(len(USERS)):
            self.do(Op(who, "forget", ()))


class _Worker:
    """A process of one user."""

    def __init__(self, cred: Credentials) -> None:
        groups = ",".join(map(str, sorted(cred.groups)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.model.host", str(cred.uid), str(cred.gid), groups],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP,
        )  # fmt: skip

    def ask(self, request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def end(self) -> None:
        self._process.communicate()


class Endable(Protocol):
    """A process that is kept from one test to the next."""

    def end(self) -> None: ...


P = TypeVar("P", bound=Endable)
_kept: dict[object, Any] = {}


def keep(key: object, make: Callable[[], P]) -> P:
    """What `make` made, the first time; until the end of the block of `workers`."""
    if key not in _kept:
        _kept[key] = make()
    kept: P = _kept[key]
    return kept


def _worker(cred: Credentials) -> _Worker:
    return keep(cred.uid, lambda: _Worker(cred))


@contextlib.contextmanager
def workers() -> Iterator[None]:
    """The processes that calls are made by end with the block."""
    try:
        yield
    finally:
        while _kept:
            _kept.popitem()[1].end()


# -- in the process of a user


class _Calls:
    """The calls, with the handles that are open in this process."""

    def __init__(self) -> None:
        self.handles: dict[tuple[str, int], int] = {}
        self.root = ""

    def do(self, root: str, call: str, args: Any) -> Result:
        self.root = root
        try:
            return "ok", getattr(self, call)(*args)
        except OSError as exc:
            return "error", errno.errorcode[exc.errno or 0]

    def at(self, path: str) -> str:
        return f"{self.root}/{BASE}/{path}"

    def fd(self, handle: int) -> int:
        return self.handles[self.root, handle]

    def open(self, path: str, flags: int, mode: int, handle: int) -> None:
        self.handles[self.root, handle] = os.open(self.at(path), flags | os.O_NONBLOCK, mode)

    def pwrite(self, handle: int, offset: int, size: int, fill: int) -> int:
        return os.pwrite(self.fd(handle), data(fill, size), offset)

    def append(self, handle: int, size: int, fill: int) -> int:
        os.lseek(self.fd(handle), 0, os.SEEK_END)
        return os.write(self.fd(handle), data(fill, size))

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(self.fd(handle), size, offset)

    def ftruncate(self, handle: int, size: int) -> None:
        os.ftruncate(self.fd(handle), size)

    def fchmod(self, handle: int, mode: int) -> None:
        os.fchmod(self.fd(handle), mode)

    def fstat(self, handle: int) -> Any:
        return shown(os.fstat(self.fd(handle)))

    def fsync(self, handle: int, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(self.fd(handle))

    def close(self, handle: int) -> None:
        os.close(self.handles.pop((self.root, handle)))

    def forget(self) -> None:
        for key in [key for key in self.handles if key[0] == self.root]:
            with contextlib.suppress(OSError):  # of a mount whose daemon is gone
                os.close(self.handles.pop(key))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def mknod(self, path: str, mode: int, kind: int) -> None:
        os.mknod(self.at(path), kind | mode, os.makedev(1, 3))

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self.at(path))

    def link(self, old: str, new: str) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        if _libc.renameat2(-100, self.at(old).encode(), -100, self.at(new).encode(), flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: str, uid: int | None, gid: int | None, follow: bool) -> None:
        ids = (-1 if uid is None else uid, -1 if gid is None else gid)
        os.chown(self.at(path), *ids, follow_symlinks=follow)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    def utime(self, path: str, times: tuple[int, int] | None, follow: bool) -> None:
        if times is None:
            os.utime(self.at(path), follow_symlinks=follow)
        else:
            os.utime(self.at(path), ns=times, follow_symlinks=follow)

    def stat(self, path: str, follow: bool) -> Any:
        return shown(os.stat(self.at(path), follow_symlinks=follow))

    def kind(self, path: str) -> int:
        return stat.S_IFMT(os.stat(self.at(path)).st_mode)

    def lowner(self, path: str) -> int:
        return os.lstat(self.at(path)).st_uid

    def access(self, path: str, mask: int) -> bool:
        os.stat(self.at(path))
        return os.access(self.at(path), mask, effective_ids=True)

    def listdir(self, path: str) -> list[tuple[str, int]]:
        """Names and types, as the listing itself says them."""
        with os.scandir(self.at(path)) as entries:
            return sorted((entry.name, _kind_of(entry)) for entry in entries)

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def setxattr(self, path: str, name: str, size: int, flags: int = 0) -> None:
        os.setxattr(self.at(path), name, b"v" * size, flags)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self.at(path), name)

    def listxattr(self, path: str) -> list[str]:
        return sorted(os.listxattr(self.at(path)))

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.at(path), name)

    def tree(self) -> Tree:
        found: Tree = {}
        self._scan(".", found)
        return found

    def _scan(self, path: str, found: Tree) -> None:
        st = os.lstat(self.at(path))
        inside: Any = None
        if stat.S_ISREG(st.st_mode):
            inside = self._content(path, st.st_size)
        times = (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
        found[path] = Entry(st.st_ino, (*shown(st), inside), times)
        if stat.S_ISDIR(st.st_mode):
            fd = os.open(self.at(path), os.O_RDONLY | os.O_NOATIME)
            try:
                names = sorted(os.listdir(fd))
            finally:
                os.close(fd)
            for name in names:
                self._scan(f"{path}/{name}", found)

    def _content(self, path: str, size: int) -> bytes:
        fd = os.open(self.at(path), os.O_RDONLY | os.O_NOATIME)
        try:
            tail = max(CONTENT_BYTES, size - CONTENT_BYTES)
            return os.pread(fd, CONTENT_BYTES, 0) + os.pread(fd, CONTENT_BYTES, tail)
        finally:
            os.close(fd)


def shown(st: os.stat_result) -> tuple[Any, ...]:
    """The attributes that all sides must agree on; a directory's size is the disk's affair."""
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    rdev = st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else 0
    return (oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, size, rdev)


def _kind_of(entry: "os.DirEntry[str]") -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0


def main(uid: str, gid: str, groups: str) -> None:
    """Serves requests until stdin ends."""
    os.umask(0)
    if os.geteuid() == 0:
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))
    calls = _Calls()
    requests: IO[bytes] = sys.stdin.buffer
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(calls.do(*request), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
