"""Room on the disk: the reserve file, and what a store may still do when the disk is full.

What is acknowledged waits in the operation journal for the next flush, and the flush needs space
of its own: pages of the database and of its log. So a transaction that makes the store grow is
let in only while the disk has room for all that waits; otherwise it is ENOSPC at once. When the
disk is full all the same (it is not ours alone), the space of the reserve file is given up, for
the flush and for removals; until it can be put back, whatever grows is ENOSPC.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nexusfs.contracts.errors import NoSpaceError
from nexusfs.contracts.node import StatFs

RESERVE_BYTES = 4 << 20
"""Enough for 250 removals of four pages each, or to move a log of that size to its place."""
RESERVE_SHARE = 8
"""At most an eighth of a small disk."""
CHANGE_BYTES = 8192
"""What a change may take at worst: a page of the database and one of its log."""
LOOK_BYTES = 64 << 20
"""After so many bytes the disk is asked again how much is free."""


class Reserve:
    """Space kept in a file of the store."""

    def __init__(self, directory: Path) -> None:
        """The reserve of the store in `directory`; makes nothing yet."""
        self._path = directory / "reserve"
        host = os.statvfs(directory)
        size = min(RESERVE_BYTES, host.f_blocks * host.f_frsize // RESERVE_SHARE)
        self.size_bytes = max(size // 4096, 1) * 4096

    def free_bytes(self) -> int:
        """Space that the disk has left beside the reserve."""
        host = self.statfs()
        return host.bavail * host.bsize

    def statfs(self) -> StatFs:
        """Size and use of the disk."""
        host = os.statvfs(self._path.parent)
        return StatFs(
            bsize=host.f_frsize,
            blocks=host.f_blocks,
            bfree=host.f_bfree,
            bavail=host.f_bavail,
            files=host.f_files,
            ffree=host.f_ffree,
        )

    @property
    def held(self) -> bool:
        """True when the space is kept."""
        try:
            return os.stat(self._path).st_blocks * 512 >= self.size_bytes
        except OSError:
            return False

    def restore(self) -> bool:
        """Keeps the space; False when the disk has too little."""
        if self.held:
            return True
        if self.free_bytes() < self.size_bytes:
            return False
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size_bytes)
            finally:
                os.close(fd)
        except OSError:  # Somebody else was faster.
            self.release()
            return False
        return True

    def release(self) -> None:
        """Gives the space to the disk."""
        try:
            os.truncate(self._path, 0)
        except OSError:  # There is none.
            return


class Room:
    """Whether a store may grow.

    Attributes:
        full: the reserve is given up, so only removals go on.
        waiting_bytes: what the next flush may need at worst.
    """

    def __init__(self, reserve: Reserve, make: Callable[[bool], bool]) -> None:
        """`make` frees what can be freed, outside a transaction: see `make`."""
        self.full = False
        self.waiting_bytes = 0
        self._reserve = reserve
        self._make = make
        self._making = False
        self._left_bytes = 0

    def enter(self, size_bytes: int, changes: int, *, growing: bool) -> None:
        """Counts a transaction that is about to be written. NoSpaceError ENOSPC if it grows.

        Near the end of the disk removals are flushed before more wait than the reserve takes in.
        """
        need = 2 * size_bytes + changes * CHANGE_BYTES
        if growing and (self.full or self._left_bytes < need):
            self._need(need)
        elif self._left_bytes < need:
            self._look()
            if self._left_bytes < need and self.waiting_bytes > self._reserve.size_bytes // 4:
                self.make(removing=True)
        self.waiting_bytes += need
        self._left_bytes -= need

    def check(self, size_bytes: int = 0) -> None:
        """NoSpaceError ENOSPC when `size_bytes` more, which are about to be written, do not fit."""
        if self.full or self._left_bytes < size_bytes:
            self._need(size_bytes)
        self._left_bytes -= size_bytes

    def flushed(self, waiting_bytes: int) -> None:
        """A flush has ended, and so much waits for the next."""
        self.waiting_bytes = waiting_bytes
        self._look()

    def make(self, *, removing: bool) -> bool:
        """Frees what is dead, and for a removal the reserve; True when a retry is worth it.

        Must be called outside a transaction, and with no blob in hand that nothing names.
        """
        if self._making:
            return False
        self._making = True
        try:
            return self._make(removing)
        finally:
            self._making = False

    def statfs(self) -> StatFs:
        """Size and use of the disk; what only removals may use is not free."""
        host = self._reserve.statfs()
        return replace(host, bfree=0, bavail=0) if self.full else host

    def _need(self, size_bytes: int) -> None:
        self._look()
        fits = not self.full and self._left_bytes >= size_bytes
        if not fits and (not self.make(removing=False) or self._left_bytes < size_bytes):
            raise NoSpaceError("the store's disk is full")

    def _look(self) -> None:
        self._left_bytes = min(self._reserve.free_bytes() - self.waiting_bytes, LOOK_BYTES)
