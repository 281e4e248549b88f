"""Follows blocking files of the mount, several at once, until each has ended."""

import errno
import os
import select
import time
from collections.abc import Callable, Mapping

from nexusfs.adapters.client import PIECE_BYTES, ClientError, Mount

Sink = Callable[[bytes], None]

_NOTHING_YET_S = 0.01
"""Pause after a wake-up without bytes, should a mount's poll say so too often."""


class Follower:
    """Copies `_pipe` files to their sinks until each has ended.

    Ctrl-C, and an exception of a sink, leave `run` with the rest still to follow: call it again.
    """

    def __init__(self, mount: Mount, sinks: Mapping[str, Sink]) -> None:
        """Opens every file of `sinks`; close() closes those that have not ended."""
        self._sinks: dict[int, Sink] = {}
        self._poll = select.poll()
        for name, sink in sinks.items():
            fd = mount.open_stream(name)
            self._sinks[fd] = sink
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Copies until all have ended.

        Raises:
            ClientError: the mount went away.
        """
        while self._sinks:
            moved = [self._copy(fd) for fd, _ in self._poll.poll()]
            if not any(moved):
                time.sleep(_NOTHING_YET_S)

    def _copy(self, fd: int) -> bool:
        try:
            piece = os.read(fd, PIECE_BYTES)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._drop(fd)
            raise ClientError(exc.errno or errno.EIO, f"the stream broke: {exc.strerror}") from None
        if piece:
            self._sinks[fd](piece)
        else:
            self._drop(fd)
        return True

    def _drop(self, fd: int) -> None:
        del self._sinks[fd]
        self._poll.unregister(fd)
        os.close(fd)

    def close(self) -> None:
        """Stops following; for a caller that gives up."""
        for fd in list(self._sinks):
            self._drop(fd)
