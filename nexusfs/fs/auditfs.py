"""/var/log/audit.jsonl: the audit log as a file, read by its rights and written by nobody."""

import os
import stat as _stat

from nexusfs.contracts.audit import AuditLog
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import NotPermittedError
from nexusfs.contracts.node import Change, File, Node, Stat
from nexusfs.kernel.clock import now_ns

AUDIT_INO = 4 << 56
AUDIT_MODE = 0o440
AUDIT_DIR, AUDIT_NAME = "/var/log", b"audit.jsonl"


class AuditNode(Node):
    """The file. It belongs to who runs the kernel; opening it to write is EPERM, as chattr +i."""

    def __init__(self, log: AuditLog, uid: int, gid: int) -> None:
        """The node of a log, owned by `uid` and `gid`."""
        self.ino = AUDIT_INO
        self._log = log
        self._owner = (uid, gid)
        self._size, self._time_ns = -1, 0

    async def stat(self) -> Stat:
        """Attributes; the time is when growth was last seen."""
        size = self._log.size_bytes
        if size != self._size:
            self._size, self._time_ns = size, now_ns()
        t = self._time_ns
        mode, (uid, gid) = _stat.S_IFREG | AUDIT_MODE, self._owner
        return Stat(self.ino, mode, 1, uid, gid, size, t, t, t, 0, (size + 511) // 512)

    async def setattr(self, change: Change) -> Stat:
        """NotPermittedError EPERM."""
        raise NotPermittedError("the audit log is only ever appended to, by the kernel")

    async def open(self, cred: Credentials, flags: int) -> File:
        """A handle that sees the log grow. NotPermittedError EPERM to write, for root too."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise NotPermittedError("the audit log is only ever appended to, by the kernel")
        return AuditFile(self, cred, flags, self._log)


class AuditFile(File):
    """An open audit log."""

    direct_io = True
    keep_cache = False

    def __init__(self, node: Node, cred: Credentials, flags: int, log: AuditLog) -> None:
        """A handle on `log`."""
        super().__init__(node, cred, flags)
        self._log = log

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size) of the log so far."""
        return self._log.read(size, offset)

    async def fsync(self, *, datasync: bool) -> None:
        """Puts the log on disk."""
        self._log.sync()
