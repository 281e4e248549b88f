"""POSIX permission bits, decided once for every door."""

import os
import stat as _stat

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    InvalidError,
    IsDirectoryError,
    NoDataError,
    NotPermittedError,
    RangeError,
    UnavailableError,
)
from nexusfs.contracts.node import NAME_MAX, Change, Stat

_ACCESS_MODE = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}
_SET_IDS = _stat.S_ISUID | _stat.S_ISGID
_GROUP_RUNS = _stat.S_ISGID | _stat.S_IXGRP
_USER_XATTR = b"user."
_UNCHECKED_XATTRS = (b"security.", b"system.", b"trusted.")
"""Namespaces that the permission bits do not guard. Source: Linux fs/xattr.c."""


def may(cred: Credentials, st: Stat, mask: int) -> bool:
    """True when the permission bits of `st` grant all of `mask` (os.R_OK | W_OK | X_OK).

    Root may read and write everything, and execute what anybody may. Source: POSIX.1-2024,
    "File Access Permissions"; path_resolution(7).
    """
    mode = st.mode
    if cred.uid == 0:
        return not mask & os.X_OK or _stat.S_ISDIR(mode) or bool(mode & 0o111)
    if cred.uid == st.uid:
        bits = mode >> 6
    elif cred.gid == st.gid or (_group_matters(mode, mask) and st.gid in cred.groups):
        bits = mode >> 3
    else:
        bits = mode
    return bits & mask == mask


def _group_matters(mode: int, mask: int) -> bool:
    """False when group and others decide alike, so that the groups need not be looked up."""
    return ((mode >> 3) & mask == mask) != (mode & mask == mask)


def check(cred: Credentials, st: Stat, mask: int, name: bytes | str = "") -> None:
    """AccessError EACCES unless `may`."""
    if not may(cred, st, mask):
        raise AccessError(f"permission denied: {_show(name)}" if name else "permission denied")


def open_mask(flags: int) -> int:
    """The access that an open with `flags` needs."""
    mask = _ACCESS_MODE.get(flags & os.O_ACCMODE, os.R_OK | os.W_OK)
    return mask | os.W_OK if flags & os.O_TRUNC else mask


def is_owner(cred: Credentials, st: Stat) -> bool:
    """True for the owner and for root."""
    return cred.uid in (0, st.uid)


def check_sticky(cred: Credentials, parent: Stat, child: Stat) -> None:
    """EPERM when a sticky directory keeps others from removing or renaming the child."""
    if parent.mode & _stat.S_ISVTX and cred.uid not in (0, parent.uid, child.uid):
        raise NotPermittedError("the directory is sticky and the file is somebody else's")


def checked_change(cred: Credentials, st: Stat, change: Change, now_ns: int) -> Change:
    """The change that `cred` may make, with the side effects that POSIX asks for.

    Raises:
        NotPermittedError: EPERM, only the owner (mode, times) or root (owner) may.
        AccessError: EACCES, size or current time without write permission.
        IsDirectoryError: EISDIR, a directory has no size to set; InvalidError EINVAL.

    Source: chmod(2), chown(2), truncate(2), utimensat(2).
    """
    mode = None if change.mode is None else _checked_mode(cred, st, change.mode)
    if change.uid is not None or change.gid is not None:
        _check_chown(cred, st, change)
        if mode is None and not st.is_dir:
            mode = _new_mode(st, without_set_ids(cred, st))
    if change.size is not None:
        _check_size(cred, st)
        if mode is None:
            mode = mode_after_write(cred, st)
    atime_ns, mtime_ns = _checked_times(cred, st, change, now_ns)
    return Change(
        mode=mode, uid=change.uid, gid=change.gid, size=change.size, atime_ns=atime_ns,
        mtime_ns=now_ns if change.size is not None and mtime_ns is None else mtime_ns,
        ctime_ns=now_ns,
    )  # fmt: skip


def check_xattr(cred: Credentials, st: Stat, name: bytes, mask: int) -> None:
    """Whether `cred` may read (os.R_OK) or change (os.W_OK) the extended attribute `name`.

    Raises:
        RangeError: ERANGE, over 255 bytes. InvalidError: EINVAL, nothing after `user.`.
        NotPermittedError: EPERM, only files and directories have them, and in a sticky directory
            only its owner changes its own; NoDataError: ENODATA, read of anything else.
        AccessError: EACCES. UnavailableError: EOPNOTSUPP, not in the namespace `user`.

    Source: Linux fs/xattr.c, xattr_permission and xattr_resolve_name; xattr(7).
    """
    if not 0 < len(name) <= NAME_MAX:
        raise RangeError(f"a name of an attribute has 1 to {NAME_MAX} bytes")
    if name.startswith(_USER_XATTR):
        if not (st.is_file or st.is_dir):
            if mask & os.W_OK:
                raise NotPermittedError("only files and directories have attributes")
            raise NoDataError("only files and directories have attributes")
        if mask & os.W_OK and st.is_dir and st.mode & _stat.S_ISVTX and not is_owner(cred, st):
            raise NotPermittedError("the directory is sticky and somebody else's")
    if not name.startswith(_UNCHECKED_XATTRS):
        check(cred, st, mask)
    if not name.startswith(_USER_XATTR):
        raise UnavailableError("only user.* attributes are kept")
    if name == _USER_XATTR:
        raise InvalidError("an attribute needs a name after user.")


def mode_after_write(cred: Credentials, st: Stat) -> int | None:
    """The permission bits to set when `cred` changes the content; None when they stay.

    Whoever is not root takes setuid and setgid off. Source: Linux fs/attr.c,
    setattr_should_drop_suidgid.
    """
    if cred.is_root or not st.mode & _SET_IDS or not st.is_file:
        return None
    return _new_mode(st, without_set_ids(cred, st))


def without_set_ids(cred: Credentials, st: Stat) -> int:
    """The permission bits without setuid, and without a setgid that means execution.

    Setgid without execution by the group stays for members of the group. Source: Linux
    fs/attr.c, setattr_should_drop_sgid.
    """
    mode = _stat.S_IMODE(st.mode) & ~_stat.S_ISUID
    if mode & _stat.S_IXGRP or not _is_member(cred, st.gid):
        mode &= ~_stat.S_ISGID
    return mode


def mode_of_new(cred: Credentials, parent: Stat, mode: int) -> int:
    """The mode that a new inode gets in `parent`.

    A directory inherits setgid; a file that others could run as the directory's group loses it.
    Source: Linux fs/inode.c, inode_init_owner and mode_strip_sgid.
    """
    if not parent.mode & _stat.S_ISGID:
        return mode
    if _stat.S_ISDIR(mode):
        return mode | _stat.S_ISGID
    runs_as_group = mode & _GROUP_RUNS == _GROUP_RUNS
    return mode & ~_stat.S_ISGID if runs_as_group and not _is_member(cred, parent.gid) else mode


def _is_member(cred: Credentials, gid: int) -> bool:
    """True for root and for those who have the group."""
    return cred.is_root or cred.gid == gid or gid in cred.groups


def _new_mode(st: Stat, mode: int) -> int | None:
    return mode if mode != _stat.S_IMODE(st.mode) else None


def _checked_mode(cred: Credentials, st: Stat, mode: int) -> int:
    mode = _stat.S_IMODE(mode)
    if not is_owner(cred, st):
        # Linux sends this itself before a write, in the name of whoever writes.
        old = _stat.S_IMODE(st.mode)
        drops_set_ids = cred.door == "fuse" and mode != old and mode | old & _SET_IDS == old
        if not (drops_set_ids and st.is_file and may(cred, st, os.W_OK)):
            raise NotPermittedError("only the owner may change the mode")
        return mode
    return mode if _is_member(cred, st.gid) else mode & ~_stat.S_ISGID


def _check_chown(cred: Credentials, st: Stat, change: Change) -> None:
    if cred.is_root:
        return
    if change.uid is not None and (change.uid != st.uid or cred.uid != st.uid):
        raise NotPermittedError("only root may give a file away")
    if cred.uid != st.uid:
        raise NotPermittedError("only the owner may change the group")
    if change.gid not in (None, st.gid, cred.gid) and change.gid not in cred.groups:
        raise NotPermittedError("you are not in that group")


def _check_size(cred: Credentials, st: Stat) -> None:
    if st.is_dir:
        raise IsDirectoryError("is a directory")
    if not st.is_file:
        raise InvalidError("not a regular file")
    check(cred, st, os.W_OK)


def _checked_times(
    cred: Credentials, st: Stat, change: Change, now_ns: int
) -> tuple[int | None, int | None]:
    """Atime and mtime to set."""
    atime_ns, mtime_ns = change.atime_ns, change.mtime_ns
    if change.touch:
        if not is_owner(cred, st):
            check(cred, st, os.W_OK)
            return now_ns, now_ns
        return (
            now_ns if atime_ns is None else atime_ns,
            now_ns if mtime_ns is None else mtime_ns,
        )
    sets_times = atime_ns is not None or mtime_ns is not None
    if sets_times and change.size is None and not is_owner(cred, st):
        raise NotPermittedError("only the owner may set the times")
    return atime_ns, mtime_ns


def _show(name: bytes | str) -> str:
    return repr(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
