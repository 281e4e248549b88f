"""Tells Linux what changed behind its back, from a thread of its own.

Concurrency: `_queued`, `_sent` and `_waiters` belong to the trio thread; only the queue is shared.

pyfuse3's notifications may block until a related request is answered, so they must not run in
the loop that answers it. Changes that came through the mount are Linux's own and are not sent.
"""

import contextlib
import logging
import queue
import threading

import pyfuse3
import trio

from mount.inodes import Inodes
from nexusfs.contracts.node import Changed

log = logging.getLogger(__name__)


class Invalidator:
    """A queue of notifications and the thread that sends them."""

    def __init__(self, inodes: Inodes) -> None:
        """Only inodes that Linux knows are worth a notification."""
        self._inodes = inodes
        self._queue: queue.SimpleQueue[tuple[int, bytes | None] | None] = queue.SimpleQueue()
        self._queued = self._sent = 0
        self._waiters: list[tuple[int, trio.Event]] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=self._send_all, name="invalidate", daemon=True)

    def start(self) -> None:
        """Starts the thread; call it in the trio thread."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what is queued; call before the session is closed."""
        self._queue.put(None)
        self._thread.join(timeout=2)

    def changed(self, change: Changed) -> None:
        """Queues what Linux should forget. Returns at once."""
        ino = change.node.ino
        if self._inodes.knows(ino):
            self._queued += 1
            self._queue.put((ino, change.name))

    async def settled(self) -> None:
        """Returns when Linux was told of everything queued so far. Cancelling is harmless."""
        if self._sent < self._queued:
            event = trio.Event()
            self._waiters.append((self._queued, event))
            await event.wait()

    def _send_all(self) -> None:
        assert self._token is not None
        while (item := self._queue.get()) is not None:
            try:
                _send(*item)
            except Exception:
                log.exception("an invalidation of inode %d failed", item[0])
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._count_sent)

    def _count_sent(self) -> None:
        self._sent += 1
        while self._waiters and self._waiters[0][0] <= self._sent:
            self._waiters.pop(0)[1].set()


def _send(ino: int, name: bytes | None) -> None:
    """Drops a name, and the attributes of its directory, or an inode's attributes and pages."""
    try:
        if name is not None:
            pyfuse3.invalidate_inode(ino, attr_only=True)
            pyfuse3.invalidate_entry(ino, name)
        else:
            pyfuse3.invalidate_inode(ino)
    except OSError as exc:  # ENOENT: Linux has nothing cached of it
        log.debug("invalidation of %d %r: %s", ino, name, exc)
