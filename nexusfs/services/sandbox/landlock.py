"""A program of its own: runs another under Landlock and limits, and ends all it started.

`python -I -S landlock.py JSON`, with a pipe whose other end only the daemon holds. It stays as
the supervisor: whatever loses its parent becomes its child (PR_SET_CHILD_SUBREAPER), and when
the program has ended, or the pipe is closed, it kills all of its descendants until none is left.
The program itself can't reach the supervisor, nor anything else outside: Landlock takes files,
TCP, signals, ptrace and abstract sockets, seccomp all other sockets. It can't take metadata: the
mode, owner and times of the user's files outside can still be changed, and names looked at.

Standard library alone, and no other module of NexusFS: it starts in 20 ms, also where the
package cannot be imported. Source: landlock(7), seccomp(2), prctl(2), capabilities(7), Linux
include/uapi/linux/landlock.h.
"""

import base64
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import stat
import struct
import sys
import tempfile
from contextlib import suppress
from typing import Any

NEEDED_ABI = 6
"""Linux 6.12, the first to keep signals and abstract sockets inside."""
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
ALL_FILES = (1 << 16) - 1
READING = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
BIND_TCP_AND_CONNECT_TCP = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_OPENAT2, _AT_FDCWD, _RESOLVE_NO_SYMLINKS = 437, -100, 0x04

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT = 24, 36, 47
_CAP_AMBIENT_CLEAR_ALL, _SECCOMP_MODE_FILTER = 4, 2
_CAPABILITY_VERSION_3 = 0x20080522
POLL_MS = 200
CANNOT_RUN = 126

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """The version of Landlock that Linux has here; 0 for none."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, 0, 1)), 0)


def main(told: dict[str, Any]) -> int:
    """Runs the program to its end; its exit code, 128 + n after signal n."""
    os.set_inheritable(told["life"], False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    scratch = tempfile.mkdtemp(prefix="nexusfs-exec-", dir="/tmp")
    try:
        if os.geteuid() == 0:
            os.chown(scratch, told["uid"], told["gid"])
        child = os.fork()
        if child == 0:
            _become(told, scratch)
        for fd in (0, 1, 2):
            os.close(fd)
        code = _watch(child, told["life"])
        return code
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# -- the supervisor


def _watch(child: int, life: int) -> int:
    """Waits for the program or for the daemon's end, then ends everything."""
    ended: dict[int, int] = {}
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(life, select.POLLIN)
    while not poll.poll(POLL_MS):
        _reap(ended, child)
    while True:  # until nothing is left that could make another one
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _reap(ended, 0):
            return ended[child]
        select.select([], [], [], 0.001)


def _reap(ended: dict[int, int], spared: int) -> bool:
    """Takes the exit codes of children that have ended, but not of `spared`; False for no child."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if found is None or found.si_pid == spared:
            return True
        _, status = os.waitpid(found.si_pid, 0)
        code = os.waitstatus_to_exitcode(status)
        ended[found.si_pid] = 128 - code if code < 0 else code


def descendants(pid: int) -> list[int]:
    """All living descendants of a process. Source: proc_tid_children(5)."""
    found: list[int] = []
    ahead = [pid]
    while ahead:
        parent = ahead.pop()
        try:
            with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        found += children
        ahead += children
    return found


# -- the program


def _become(told: dict[str, Any], scratch: str) -> None:
    """Gives everything up and becomes the program; never returns."""
    try:
        os.setsid()
        _become_user(told["uid"], told["gid"], told["groups"])
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        os.chdir(told["cwd"])
        _limit(told["limits"])
        if told["restrict"]:
            _landlock(told, scratch)
            _seccomp(base64.b64decode(told["seccomp"]))
        os.write(1, b"ready\n")
        while os.read(0, 1) not in (b"\n", b""):
            pass
        environment = {**told["environment"], "TMPDIR": scratch}
        if environment["HOME"] == "/tmp":  # the host's, which it may not use
            environment["HOME"] = scratch
        os.execvpe(told["argv"][0], told["argv"], environment)
    except FileNotFoundError as exc:
        _say(f"{told['argv'][0]}: {exc.strerror}")
        os._exit(127)
    except BaseException as exc:
        _say(f"cannot run it here: {exc}")
        os._exit(CANNOT_RUN)


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode("utf-8", "replace"))


def _become_user(uid: int, gid: int, groups: list[int]) -> None:
    """The user's ids, and no capability, not even root's."""
    if os.geteuid() == 0:
        _drop_bounds()
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        _prctl(_PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        if _libc.capset(header, bytes(24)) != 0:
            raise _error("capset")


def _drop_bounds() -> None:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)


def _limit(limits: dict[str, int]) -> None:
    for which, most in (
        (resource.RLIMIT_CORE, limits["core"]),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_DATA, limits["data_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
    ):
        resource.setrlimit(which, (most, most))
    ours = _processes_of(os.getuid()) + limits["processes"]
    resource.setrlimit(resource.RLIMIT_NPROC, (ours, ours))


def _processes_of(uid: int) -> int:
    """How many threads a user has now: Linux counts all of them against RLIMIT_NPROC."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _landlock(told: dict[str, Any], scratch: str) -> None:
    tcp = 0 if told["network"] else BIND_TCP_AND_CONNECT_TCP
    attributes = struct.pack("=QQQ", ALL_FILES, tcp, ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise _error("landlock_create_ruleset")
    for path, access in [*told["paths"], [scratch, "rw"]]:
        _allow(ruleset, path, access)
    if _libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise _error("landlock_restrict_self")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: str) -> None:
    """Grants a path and all below; one that is absent, or has a symlink in it, grants nothing.

    Symlinks are not followed: a directory of the mount may have been swapped for one meanwhile.
    Source: openat2(2).
    """
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    fd = _libc.syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, len(how))
    if fd < 0:
        return
    try:
        mode = os.fstat(fd).st_mode
        allowed = READING if access == "r" else ALL_FILES
        allowed &= ALL_FILES if stat.S_ISDIR(mode) else OF_A_FILE
        rule = struct.pack("=Qi", allowed, fd)
        if _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0:
            raise _error(f"landlock_add_rule {path}")
    finally:
        os.close(fd)


def _seccomp(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0) != 0:
        raise _error("seccomp")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise _error(f"prctl {option}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
