"""Room on the disk: the reserve file, and what a store may still do when the disk is full.

A full disk fails even a DELETE in SQLite, for it appends to the log. So each store keeps some
space in a file; when the disk is full the file is given up, for removals alone: until it can be
put back, whatever makes the store grow is ENOSPC at once.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from nexusfs.contracts.errors import NoSpaceError

RESERVE_BYTES = 4 << 20
"""Enough for 250 removals of four pages each, or to move a log of that size to its place."""
RESERVE_SHARE = 8
"""At most an eighth of a small disk."""

P = ParamSpec("P")
R = TypeVar("R")


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
        host = os.statvfs(self._path.parent)
        return host.f_bavail * host.f_frsize

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
    """

    def __init__(self, make: Callable[[bool], bool] = lambda _removing: False) -> None:
        """`make` frees what can be freed, outside a transaction: see `make`."""
        self.full = False
        self._make = make
        self._making = False

    def check(self) -> None:
        """NoSpaceError ENOSPC when only removals may go on."""
        if self.full and not self.make(removing=False):
            raise NoSpaceError("the store's disk is full")

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


class _HasRoom(Protocol):
    """A store whose methods need space."""

    room: Room


S = TypeVar("S", bound=_HasRoom)


def grows(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Makes a transaction that adds something ENOSPC on a full disk, once what is dead is freed."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        room: Room = self.room
        if room.full:
            room.check()
        try:
            return method(self, *args, **kwargs)
        except NoSpaceError:
            if not room.make(removing=False):
                raise
        return method(self, *args, **kwargs)

    return call


def shrinks(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Makes a transaction that removes or only changes something go on on a full disk."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except NoSpaceError:
            if not self.room.make(removing=True):
                raise
        return method(self, *args, **kwargs)

    return call
