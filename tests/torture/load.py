"""A mixed load on ordinary files: random operations, and what a tree looks like after them.

An operation is one system call with an effect (and the opens around it), so that after a crash it
has happened or it has not. The same operation is done in a mount and then in its shadow, a
directory of the host, which so holds exactly what was acknowledged.
"""

import contextlib
import ctypes
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Op = list[Any]
"""[name of the function in OPERATIONS, its arguments after the root...]; survives JSON."""

LONG_AGO_NS = 10**18
"""Times before this were set by an operation; later ones are the clock's, and differ."""

PAGE = 4096
_DIRS = ("d0", "d1", "d2")
_NAMES = ("n0", "n1", "n2", "n3", "n4", "n5", *_DIRS)
_SIZES = (1, 10, 100, 1000, 4095, 4096, 4097, 20_000, 100_000)
_OFFSETS = (0, 0, 7, 4000, 4096, 50_000, 300_000)
_libc = ctypes.CDLL(None, use_errno=True)


def content(fill: int, size: int) -> bytes:
    """Bytes that tell from which operation they are."""
    return random.Random(fill).randbytes(size)


def create(root: Path, path: str, mode: int) -> None:
    os.close(os.open(root / path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def write(root: Path, path: str, offset: int, fill: int, size: int) -> None:
    _write(root / path, os.O_WRONLY, content(fill, size), offset)


def append(root: Path, path: str, fill: int, size: int) -> None:
    _write(root / path, os.O_WRONLY | os.O_APPEND, content(fill, size), 0)


def _write(path: Path, flags: int, data: bytes, offset: int) -> None:
    fd = os.open(path, flags | os.O_NOFOLLOW)
    try:
        if os.pwrite(fd, data, offset) < len(data):  # The daemon went between two requests.
            raise OSError(errno.ENOTCONN, "a short write")
    finally:
        os.close(fd)


def truncate(root: Path, path: str, size: int) -> None:
    os.truncate(root / path, size)


def mkdir(root: Path, path: str) -> None:
    os.mkdir(root / path, 0o755)


def rmdir(root: Path, path: str) -> None:
    os.rmdir(root / path)


def unlink(root: Path, path: str) -> None:
    os.unlink(root / path)


def rename(root: Path, old: str, new: str, flags: int) -> None:
    if _libc.renameat2(-100, bytes(root / old), -100, bytes(root / new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def link(root: Path, old: str, new: str) -> None:
    os.link(root / old, root / new, follow_symlinks=False)


def symlink(root: Path, path: str, target: str) -> None:
    os.symlink(target, root / path)


def chmod(root: Path, path: str, mode: int) -> None:
    os.chmod(root / path, mode)


def utime(root: Path, path: str, time_ns: int) -> None:
    os.utime(root / path, ns=(time_ns, time_ns), follow_symlinks=False)


def setxattr(root: Path, path: str, name: str, size: int) -> None:
    os.setxattr(root / path, f"user.{name}", b"v" * size, follow_symlinks=False)


def removexattr(root: Path, path: str, name: str) -> None:
    os.removexattr(root / path, f"user.{name}", follow_symlinks=False)


OPERATIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        create, write, append, truncate, mkdir, rmdir, unlink, rename, link, symlink, chmod,
        utime, setxattr, removexattr,
    )
}  # fmt: skip


def do(op: Op, root: Path) -> str:
    """Does an operation below `root`: empty, or the name of its errno."""
    try:
        OPERATIONS[op[0]](root, *op[1:])
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return ""


def in_steps(op: Op, root: Path) -> Iterator[None]:
    """Does an operation below `root` bit by bit, as far as a crash may cut it in two.

    Linux sends a write that begins inside a page in several requests, and each of them happens or
    does not. Source: Linux fs/fuse/file.c, fuse_fill_write_pages.
    """
    name, path, *arguments = op
    if name in ("write", "append"):
        size, fill = arguments[-1], arguments[-2]
        with contextlib.suppress(OSError):
            offset = arguments[0] if name == "write" else (root / path).lstat().st_size
            for length in range(PAGE - offset % PAGE, size, PAGE):
                _write(root / path, os.O_WRONLY, content(fill, size)[:length], offset)
                yield
            _write(root / path, os.O_WRONLY, content(fill, size), offset)
    else:
        do(op, root)
    yield


def random_op(rng: random.Random) -> Op:
    """An operation on names of a small tree; many of them fail, as they would on any disk."""
    name = rng.choices(list(OPERATIONS), (8, 8, 8, 4, 4, 1, 3, 6, 3, 1, 1, 1, 1, 1))[0]
    path, other = _path(rng), _path(rng)
    fill = rng.randrange(1 << 32)
    arguments: dict[str, tuple[Any, ...]] = {
        "create": (path, rng.choice([0o644, 0o600, 0o4755])),
        "write": (path, rng.choice(_OFFSETS), fill, rng.choice(_SIZES)),
        "append": (path, fill, rng.choice(_SIZES)),
        "truncate": (path, rng.choice([0, 0, *_SIZES])),
        "rename": (path, other, rng.choice([0, 0, 0, 1, 2])),
        "link": (path, other),
        "symlink": (path, other),
        "chmod": (path, rng.choice([0o755, 0o600, 0o1777])),
        "utime": (path, rng.randrange(LONG_AGO_NS)),
        "setxattr": (path, rng.choice("ab"), rng.choice([0, 3, 1000])),
        "removexattr": (path, rng.choice("ab")),
    }
    return [name, *arguments.get(name, (path,))]


def _path(rng: random.Random) -> str:
    depth = rng.choice((0, 0, 1, 1, 2))
    return "/".join([*(rng.choice(_DIRS) for _ in range(depth)), rng.choice(_NAMES)])


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """All that an acknowledged operation promises, by path; `.` is the root."""
    found: dict[str, tuple[Any, ...]] = {}
    first_names: dict[int, str] = {}
    paths = [
        root,
        *sorted(Path(top) / name for top, dirs, files in os.walk(root) for name in dirs + files),
    ]
    for path in paths:
        st = path.lstat()
        name = str(path.relative_to(root))
        same_as = first_names.setdefault(st.st_ino, name)
        found[name] = (
            oct(st.st_mode), st.st_nlink, 0 if stat.S_ISDIR(st.st_mode) else st.st_size, same_as,
            st.st_mtime_ns if st.st_mtime_ns < LONG_AGO_NS else "now", _xattrs(path),
            _inside(path, st),
        )  # fmt: skip
    return found


def _xattrs(path: Path) -> list[tuple[str, bytes]]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]


def _inside(path: Path, st: os.stat_result) -> Any:
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(path)
    return path.read_bytes() if stat.S_ISREG(st.st_mode) else b""


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first path in which two trees differ, in words; empty when they do not."""
    for name in sorted(found.keys() | expected.keys()):
        ours, theirs = found.get(name), expected.get(name)
        if ours != theirs:
            return f"{name}: found {str(ours)[:300]}, expected {str(theirs)[:300]}"
    return ""
