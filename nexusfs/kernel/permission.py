"""POSIX permission bits, decided once for every door."""

import os
import stat as _stat

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import AccessError, NotPermittedError
from nexusfs.contracts.node import Change, Stat

_ACCESS_MODE = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}


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

    Source: chmod(2), chown(2), truncate(2), utimensat(2).
    """
    mode = change.mode
    if mode is not None:
        mode = _checked_mode(cred, st, mode)
    if change.uid is not None or change.gid is not None:
        _check_chown(cred, st, change)
        if st.is_file and mode is None and cred.uid != 0 and st.mode & 0o6000:
            mode = _stat.S_IMODE(st.mode) & ~_cleared_bits(st.mode)
    if change.size is not None:
        check(cred, st, os.W_OK)
    explicit_times = change.atime_ns is not None or change.mtime_ns is not None
    if (
        explicit_times
        and change.size is None
        and not is_owner(cred, st)
        and not may(cred, st, os.W_OK)
    ):
        raise NotPermittedError("only the owner may set the times")
    return Change(
        mode=mode, uid=change.uid, gid=change.gid, size=change.size, atime_ns=change.atime_ns,
        mtime_ns=now_ns if change.size is not None and change.mtime_ns is None else change.mtime_ns,
        ctime_ns=now_ns,
    )  # fmt: skip


def _checked_mode(cred: Credentials, st: Stat, mode: int) -> int:
    if not is_owner(cred, st):
        if _only_clears_set_ids(st, mode) and may(cred, st, os.W_OK):
            return mode  # what Linux asks for in the name of a writer: file_remove_privs()
        raise NotPermittedError("only the owner may change the mode")
    in_group = cred.uid == 0 or cred.gid == st.gid or st.gid in cred.groups
    return _stat.S_IMODE(mode) if in_group else _stat.S_IMODE(mode) & ~_stat.S_ISGID


def _only_clears_set_ids(st: Stat, mode: int) -> bool:
    """True when `mode` takes setuid or setgid bits away and changes nothing else."""
    gone = _stat.S_IMODE(st.mode) ^ mode
    return st.is_file and bool(gone) and not gone & ~0o6000 and not mode & gone


def _check_chown(cred: Credentials, st: Stat, change: Change) -> None:
    if cred.uid == 0:
        return
    if change.uid is not None and (change.uid != st.uid or cred.uid != st.uid):
        raise NotPermittedError("only root may give a file away")
    if cred.uid != st.uid:
        raise NotPermittedError("only the owner may change the group")
    if change.gid is not None and change.gid != cred.gid and change.gid not in cred.groups:
        raise NotPermittedError("you are not in that group")


def _cleared_bits(mode: int) -> int:
    """Setuid, and setgid when the group may execute. Source: chown(2)."""
    return _stat.S_ISUID | (_stat.S_ISGID if mode & _stat.S_IXGRP else 0)


def _show(name: bytes | str) -> str:
    return repr(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
