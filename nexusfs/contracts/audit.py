"""The audit log: a port, and the chain that makes changes of it show."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Protocol

NO_LINE = "0" * 64
"""What the first line has as the hash of the line before."""


class AuditLog(Protocol):
    """JSON Lines that are only ever appended to; each names the SHA-256 of the line before it."""

    @property
    def size_bytes(self) -> int:
        """The bytes so far."""
        ...

    def append(self, event: dict[str, Any]) -> None:
        """Adds a line, with `seq` before and `prev` behind the event; it survives kill -9.

        NoSpaceError ENOSPC: the disk is full, and nothing was added.
        """
        ...

    def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size)."""
        ...

    def sync(self) -> None:
        """Puts all lines on disk. Blocks; may run in any thread."""
        ...


def first_fault(lines: Iterable[bytes]) -> str | None:
    """Where the chain breaks, as a sentence; None when every line is as it was written.

    A log whose last lines were cut off has a good chain: compare the last `seq` with one that was
    noted elsewhere.
    """
    before = NO_LINE
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            seq, prev = row["seq"], row["prev"]
        except (ValueError, KeyError, TypeError):
            return f"line {number} is no line of an audit log"
        if seq != number:
            return f"line {number} has seq {seq}: a line is missing, or is there twice"
        if prev != before:
            return f"line {number} does not follow from the line before it: one of them was changed"
        before = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
    return None
