"""The calls of the state machine, and how random ones are drawn."""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from nexusfs.contracts.cred import Credentials

TOP = Path(__file__).resolve().parents[2]
"""Where a process must start to find the package `tests`."""
TEAM = 60_500
ME = Credentials(os.geteuid(), os.getegid(), groups=frozenset(os.getgroups()))
USERS = [ME]
if ME.is_root:
    USERS += [
        Credentials(60_001, 60_001, groups=frozenset({TEAM})),
        Credentials(60_002, 60_002, groups=frozenset({TEAM})),
    ]
IDS = sorted({cred.uid for cred in USERS} | {TEAM})

BASE = "w/x/y/z"
"""Where calls act: `..` in paths and symlinks does not lead out of what all sides have."""

Result = tuple[str, Any]
"""("ok", what the call gave) or ("error", the errno's name)."""


@dataclass(frozen=True)
class Op:
    """One system call of one user."""

    who: int
    call: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """What is known of one name of a tree.

    Attributes:
        same: what both sides must agree on.
        times_ns: (atime, mtime, ctime).
    """

    ino: int
    same: tuple[Any, ...]
    times_ns: tuple[int, int, int]


Tree = dict[str, Entry]
"""By path from BASE; `.` is BASE itself."""

CONTENT_BYTES = 20_000
"""Of larger files a tree has the beginning and the end."""


def sysctl(name: str) -> int:
    """A switch of Linux that makes it stricter than POSIX."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/sys/fs/{name}").read_text())
    return 0


STICKY = () if sysctl("protected_regular") or sysctl("protected_symlinks") else (0o1777, 0o1770)
HARDLINKS_RESTRICTED = bool(sysctl("protected_hardlinks"))

NAMES = st.sampled_from(["a", "b", "c"])
PARTS = st.lists(st.sampled_from(["a", "a", "b", "b", "c", ".", ".."]), min_size=1, max_size=3)
LONG = st.sampled_from(["n" * 255, "n" * 256, "a/" + "n" * 256, "a/" * 2049])
PATHS = st.one_of(
    NAMES, NAMES, NAMES, NAMES,
    *[st.tuples(PARTS, st.sampled_from(["", "", "", "", "/"])).map(
        lambda parts: "/".join(parts[0]) + parts[1]
    ).filter(lambda path: path.split("/").count("..") <= 2)] * 4,
    LONG,
)  # fmt: skip
TARGETS = st.sampled_from(["a", "b", "b/c", "a/", ".", "..", "../z/c", "nowhere/x", "t" * 4095])
DIR_MODES = st.sampled_from([0o777, 0o777, 0o755, 0o700, 0o711, 0o2775, 0o770, 0o557, *STICKY])
FILE_MODES = st.sampled_from([0o666, 0o644, 0o600, 0o4755, 0o2755, 0o2644, 0o6777, 0o062, 0, 0o755])
FLAGS = st.tuples(
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]),
    st.sampled_from([0, 0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL]),
    st.sampled_from([
        0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_NOATIME,
        os.O_DSYNC,
    ]),
).map(
    lambda flags: flags[0] | (0 if flags[2] == os.O_DIRECTORY else flags[1]) | flags[2]
)  # fmt: skip
"""Without O_CREAT | O_DIRECTORY, which Linux has refused only since 6.4."""
OWNERS = st.sampled_from([None, *IDS])
FOLLOW = st.booleans()
TIMES = st.sampled_from([None, (5, 7_000_000_001), (-1, 3), (2**33 * 10**9, 12)])
OFFSETS = st.one_of(st.integers(0, 300), st.sampled_from([4095, 4096, 8192, 70_000, 1 << 33]))
SIZES = st.one_of(st.integers(-1, 300), st.sampled_from([4095, 4096, 5000, 70_000]))
FILLS = st.integers(1, 255)
NODES = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK])
XATTRS = st.sampled_from(
    ["user.a", "user.b", "user." + "x" * 250, "user." + "x" * 251, "user.", "odd"]
)
HANDLE = st.integers(0, 1 << 16)
"""Which of the open handles, modulo their number."""

CALLS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "mkdir": st.tuples(PATHS, DIR_MODES),
    "open": st.tuples(PATHS, FLAGS, FILE_MODES),
    "mknod": st.tuples(PATHS, FILE_MODES, NODES),
    "symlink": st.tuples(PATHS, TARGETS),
    "link": st.tuples(PATHS, PATHS),
    "unlink": st.tuples(PATHS),
    "rmdir": st.tuples(PATHS),
    "rename": st.tuples(PATHS, PATHS, st.sampled_from([0, 0, 0, 1, 2])),
    "chmod": st.tuples(PATHS, st.one_of(DIR_MODES, FILE_MODES)),
    "chown": st.tuples(PATHS, OWNERS, OWNERS, FOLLOW).filter(
        lambda args: args[1:3] != (None, None)
    ),
    "truncate": st.tuples(PATHS, SIZES),
    "utime": st.tuples(PATHS, TIMES, FOLLOW),
    "stat": st.tuples(PATHS, FOLLOW),
    "access": st.tuples(PATHS, st.integers(0, 7)),
    "listdir": st.tuples(PATHS),
    "readlink": st.tuples(PATHS),
    "setxattr": st.tuples(PATHS, XATTRS, st.integers(0, 300)),
    "getxattr": st.tuples(PATHS, XATTRS),
    "listxattr": st.tuples(PATHS),
    "removexattr": st.tuples(PATHS, XATTRS),
}  # fmt: skip
"""Calls on paths. Calls on handles have the number of one as their first argument."""
ON_HANDLES: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "pwrite": st.tuples(HANDLE, OFFSETS, SIZES.filter(lambda n: n >= 0), FILLS),
    "append": st.tuples(HANDLE, SIZES.filter(lambda n: n >= 0), FILLS),
    "pread": st.tuples(HANDLE, OFFSETS, SIZES.filter(lambda n: n >= 0)),
    "ftruncate": st.tuples(HANDLE, SIZES),
    "fchmod": st.tuples(HANDLE, FILE_MODES),
    "fstat": st.tuples(HANDLE),
    "fsync": st.tuples(HANDLE, st.booleans()),
    "close": st.tuples(HANDLE),
}


def drawn(calls: dict[str, st.SearchStrategy[tuple[Any, ...]]]) -> st.SearchStrategy[Op]:
    """Any of the calls, by any of the users."""
    who = st.integers(0, len(USERS) - 1)
    return st.one_of(*(st.builds(Op, who, st.just(call), args) for call, args in calls.items()))


def data(fill: int, size: int) -> bytes:
    """What a write writes."""
    return (bytes((fill + n) % 251 for n in range(min(size, 251))) * (size // 251 + 1))[:size]


def any_error_will_do(op: Op) -> bool:
    """True when several errors may apply at once, of which POSIX lets a system choose.

    Source: POSIX.1-2024, System Interfaces, 2.3 Error Numbers.
    """
    paths = [arg for arg in op.args[:2] if isinstance(arg, str)]
    special = any(path.rpartition("/")[2] in ("", ".", "..") for path in paths)
    negative = op.call in ("truncate", "ftruncate") and op.args[1] == -1
    return special or negative or any(len(path) > 250 for path in paths)
