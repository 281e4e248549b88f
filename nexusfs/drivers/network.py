"""Which disks a store refuses: locks, mmap and fsync of network filesystems are not the disk's."""

import ctypes
import os
from pathlib import Path

from nexusfs.contracts.errors import UnavailableError

NETWORK_TYPES = {
    0x6969: "NFS", 0x517B: "SMB", 0xFE534D42: "SMB2", 0xFF534D42: "CIFS", 0x01021997: "9P",
    0x00C36400: "Ceph", 0x5346414F: "AFS", 0x6B414653: "AFS", 0x73757245: "Coda",
    0x0BD00BD0: "Lustre", 0x19830326: "BeeGFS", 0x47504653: "GPFS", 0x786F4256: "VirtualBox",
}  # fmt: skip
"""Source: linux/magic.h, statfs(2)."""
FUSE_TYPE = 0x65735546
NETWORK_FUSE = ("sshfs", "gluster", "s3fs", "rclone", "gcsfuse", "davfs", "ceph", "nexusfs")
"""FUSE programs over a network, and our own, which must not stand on itself."""

_libc = ctypes.CDLL(None, use_errno=True)


def refuse_network(directory: Path) -> None:
    """UnavailableError EOPNOTSUPP when `directory` is on a network filesystem."""
    kind = _kind(directory)
    if kind is not None:
        raise UnavailableError(
            f"the store {directory} is on a network filesystem ({kind}), where locks and fsync "
            "cannot be trusted: put it on a local disk"
        )


def _kind(directory: Path) -> str | None:
    number = filesystem_type(directory)
    if number == FUSE_TYPE:
        name = _mounted_type(directory)
        return name if any(each in name for each in NETWORK_FUSE) else None
    return NETWORK_TYPES.get(number)


def filesystem_type(directory: Path) -> int:
    """The number that statfs(2) gives for the filesystem of `directory`; 0 when unknown."""
    result = (ctypes.c_long * 32)()  # struct statfs begins with f_type and has under 16 words.
    if _libc.statfs(os.fsencode(directory), ctypes.byref(result)) != 0:
        return 0
    return int(result[0]) & 0xFFFFFFFF


def _mounted_type(directory: Path) -> str:
    """The filesystem's name in mountinfo, such as `fuse.sshfs`. Source: proc_pid_mountinfo(5)."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.split()[2] == wanted:
                return line.partition(" - ")[2].split()[0]
    return ""
