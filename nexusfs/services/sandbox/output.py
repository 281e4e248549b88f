"""What a program says on one stream: live for those who follow, bounded for the reply."""

import codecs
import logging
import os

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.sandbox import Captured
from nexusfs.services.sandbox.asker import Asker

log = logging.getLogger(__name__)

OUTPUT_DIR = "/tmp"
"""Where whole outputs are kept; made at boot like any /tmp, so that every user may write there."""
SPOOL_BYTES = 256 * 1024
"""Written at once; what the file lacks at most while the program runs."""
LIVE_CHARS = 256 * 1024
"""Of one stream of a call, as live lines: they are held in memory until the call's result."""
FILE_MODE = 0o600


class Capture:
    """Takes the bytes of one stream as they come."""

    def __init__(self, stream: str, asker: Asker, keep_bytes: int) -> None:
        """`keep_bytes` of the beginning and the end are for the reply, all of it for a file."""
        self.size_bytes = 0
        self._stream = stream
        self._asker = asker
        self._half = keep_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._spool = bytearray()
        self._path = f"{OUTPUT_DIR}/{asker.call_id}.{stream}"
        self._fd: int | None = None
        self._lost = False
        self._live_chars = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def feed(self, data: bytes) -> None:
        """The next bytes. Suspends where writing a file does."""
        self._show(self._decoder.decode(data))
        self.size_bytes += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[max(room, 0) :]
        self._spool += data
        if self.size_bytes > 2 * self._half:
            del self._tail[: len(self._tail) - self._half]
            if self._fd is None or len(self._spool) >= SPOOL_BYTES:
                await self._save()

    async def finish(self) -> None:
        """Completes the file, if there is one. Nothing comes after it."""
        if self._fd is not None:
            await self._save()
            await self._asker.files.sys_close(self._fd)

    def captured(self) -> Captured:
        """What there was, after `finish`."""
        path = self._path if self._fd is not None and not self._lost else ""
        return Captured(bytes(self._head), bytes(self._tail), self.size_bytes, path)

    async def _save(self) -> None:
        data, self._spool = bytes(self._spool), bytearray()
        if self._lost:
            return
        files = self._asker.files
        try:
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
                self._fd = (await files.sys_open(self._path, flags, FILE_MODE)).fd
            while data:
                data = data[await files.sys_write(self._fd, data, 0) :]
        except KernelError as exc:
            log.info("the output of %s is not kept: %s", self._asker.call_id, exc)
            self._lost = True

    def _show(self, text: str) -> None:
        if not text or self._live_chars > LIVE_CHARS:
            return
        self._live_chars += len(text)
        if self._live_chars > LIVE_CHARS:
            text = f"\n[not shown live any more: over {LIVE_CHARS:,} characters]\n"
        self._asker.show("tool_output", id=self._asker.call_id, stream=self._stream, text=text)
