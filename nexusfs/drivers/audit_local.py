"""The audit log as a file of the store's directory, written with one `write(2)` a line."""

import hashlib
import json
import os
import weakref
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from nexusfs.contracts.audit import NO_LINE
from nexusfs.contracts.errors import CorruptError, KernelError, NoSpaceError

TAIL_BYTES = 1 << 16
"""The end of the file is looked through in pieces of this size for its last line."""


class LocalAuditLog:
    """The log in one file; see `contracts.audit.AuditLog`. Appending costs the same at any size."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file, and cuts off half a line that a power cut left.

        CorruptError EIO: its last line is no line of an audit log.
        """
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self._fd)
        self.size_bytes = os.fstat(self._fd).st_size
        self._seq, self._prev = 0, NO_LINE
        last = self._last_line()
        if last:
            try:
                self._seq = int(json.loads(last)["seq"])
            except (ValueError, KeyError, TypeError):
                raise CorruptError(f"{path}: the last line is no line of an audit log") from None
            self._prev = hashlib.sha256(last).hexdigest()

    def append(self, event: dict[str, Any]) -> None:
        """Adds a line. NoSpaceError ENOSPC; nothing was added."""
        row = {"seq": self._seq + 1, **event, "prev": self._prev}
        try:
            line = to_json(row)
        except ValueError:  # a lone surrogate
            line = json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace")
        try:
            written = os.pwrite(self._fd, line + b"\n", self.size_bytes)
        except OSError as exc:
            raise NoSpaceError(f"the audit log: {exc.strerror}") from exc
        if written <= len(line):
            os.ftruncate(self._fd, self.size_bytes)
            raise NoSpaceError("the audit log: no space is left on the store's disk")
        self.size_bytes += written
        self._seq += 1
        self._prev = hashlib.sha256(line).hexdigest()

    def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size)."""
        return os.pread(self._fd, min(size, max(self.size_bytes - offset, 0)), offset)

    def sync(self) -> None:
        """Puts all lines on disk. Blocks; may run in any thread."""
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            raise KernelError(f"{self._path.name}: {exc.strerror}") from exc

    def _last_line(self) -> bytes:
        """The last whole line, without its end; the file is cut behind it."""
        tail, start = b"", self.size_bytes
        while start and tail.count(b"\n") < 2:
            step = min(TAIL_BYTES, start)
            start -= step
            tail = os.pread(self._fd, step, start) + tail
        whole, _, torn = tail.rpartition(b"\n")
        if torn:
            self.size_bytes -= len(torn)
            os.ftruncate(self._fd, self.size_bytes)
        return whole.rpartition(b"\n")[2]
