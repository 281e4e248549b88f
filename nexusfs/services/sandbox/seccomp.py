"""A seccomp filter: the system calls that no program in a sandbox has any business with.

Keyrings and vsock sockets are in no namespace, io_uring goes around a filter, and a memfd is
memory that belongs to no process. Source: seccomp(2), Linux linux/filter.h and linux/audit.h,
the tables of system calls of each architecture.
"""

import errno
import platform
import struct
from collections.abc import Iterable

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NR, _ARCH, _ARG0 = 0, 4, 16
_X32 = 0x40000000

_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS = {
    "x86_64": {
        "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175,
        "finit_module": 313, "open_by_handle_at": 304, "io_uring_setup": 425,
        "memfd_create": 319, "memfd_secret": 447, "socket": 41,
    },
    "aarch64": {
        "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
        "userfaultfd": 282, "kexec_load": 104, "kexec_file_load": 294, "init_module": 105,
        "finit_module": 273, "open_by_handle_at": 265, "io_uring_setup": 425,
        "memfd_create": 279, "memfd_secret": 447, "socket": 198,
    },
}  # fmt: skip
_ABSENT = ("io_uring_setup", "memfd_create", "memfd_secret")
"""Refused as if Linux were older: who uses them has another way."""


def seccomp_filter(families: Iterable[int], machine: str = "") -> bytes | None:
    """A filter program that lets sockets of these address families be made, as bytes.

    None for an architecture whose numbers are not known here.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHES:
        return None
    calls = dict(_CALLS[machine])
    socket = calls.pop("socket")
    program = [(_LOAD, 0, 0, _ARCH), (_IF_EQUAL, 1, 0, _ARCHES[machine]), _refuse(errno.ENOSYS)]
    program.append((_LOAD, 0, 0, _NR))
    if machine == "x86_64":
        program += [(_IF_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    for name, number in calls.items():
        fault = errno.ENOSYS if name in _ABSENT else errno.EPERM
        program += [(_IF_EQUAL, 0, 1, number), _refuse(fault)]
    program += [(_IF_EQUAL, 1, 0, socket), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _ARG0)]
    for family in families:
        program += [(_IF_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    program.append(_refuse(errno.EACCES))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | number)
