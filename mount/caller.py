"""Who asks: credentials of the process behind a FUSE request."""

import os
from collections.abc import Callable

from nexusfs.contracts.cred import Credentials


def groups_of(host_pid: int) -> frozenset[int]:
    """Supplementary groups of a thread, from its status file; none when it is gone or unknown.

    FUSE requests do not carry them. Source: proc_pid_status(5).
    """
    try:
        with open(f"/proc/{host_pid}/status", encoding="utf-8") as status:
            for line in status:
                if line.startswith("Groups:"):
                    return frozenset(int(group) for group in line.split()[1:])
    except OSError:
        pass
    return frozenset()


def session_of(host_pid: int) -> int:
    """POSIX session id of a thread's process; 0 when it is gone or in another PID namespace."""
    if host_pid == 0:
        return 0
    try:
        return os.getsid(host_pid)
    except OSError:
        return 0


def credentials(uid: int, gid: int, pid: int, agent_of: Callable[[int], int]) -> Credentials:
    """Credentials of a request's context; all but the ids are looked up when needed."""
    return Credentials(
        uid, gid, groups=groups_of, session=session_of, agent_pid=agent_of, host_pid=pid,
        door="fuse",
    )  # fmt: skip
