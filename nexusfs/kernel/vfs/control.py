"""Control files: write a request, and it acts inside the write; read the same handle for the reply.

A request acts as soon as it is complete, because shells ignore errors of close(2): a JSON
object that closes, or a line that ends. Only what has no visible end (Markdown, a message)
acts at flush. The reply, or the sentence that says what was wrong, is then readable on the
same handle; the first read after a request sets the base that later offsets count from,
for the handle's position has moved by what was written.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BadFileError,
    BusyError,
    InterruptedCallError,
    InvalidError,
    KernelError,
    TooBigError,
    WouldBlockError,
)
from nexusfs.contracts.node import POLLIN, POLLOUT, File
from nexusfs.kernel.requests import REQUEST_LIMIT_BYTES, JsonFramer
from nexusfs.kernel.vfs.kernfs import Background, KernNode, Row, Table, refuse_read

log = logging.getLogger(__name__)

_SPACE = b" \t\r\n"
_LINES = ("line", "lines")
LINES_MAX = 1000
"""Requests that one write may carry."""


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request: its kind, its bytes, and the value of an object.

    Kinds: `object`, `line`, `markdown`, `message`.
    """

    kind: str
    data: bytes
    value: dict[str, Any] = field(default_factory=dict)


class Framing:
    """Cuts what is written to one handle into requests of the kinds that the file takes."""

    def __init__(self, kinds: frozenset[str]) -> None:
        """A framing at the start of a request."""
        self._kinds = kinds
        self._kind = ""
        self._buffer = bytearray()
        self._json: JsonFramer | None = None

    async def feed(self, data: bytes) -> list[Request]:
        """The requests that `data` completes. InvalidError, TooBigError; nothing has acted then.

        May suspend on large pieces, so that other requests are served between.
        """
        if not self._kind:
            head = bytes(self._buffer) + data
            if self._kinds != {"message"}:
                head = head.lstrip(_SPACE)
            self._buffer.clear()
            self._kind = self._kind_of(head)
            if not self._kind:
                self._buffer += head
                return []
            data = head
        if self._kind == "object":
            return await self._feed_object(data)
        if len(self._buffer) + len(data) > REQUEST_LIMIT_BYTES:
            raise TooBigError("a request may have 4 MiB: write less")
        self._buffer += data
        return self._take_lines() if self._kind in _LINES else []

    def finish(self) -> list[Request]:
        """The request that a flush completes, if any. InvalidError for half a JSON object."""
        kind, rest = self._kind, bytes(self._buffer)
        half = self._json is not None
        self.reset()
        if half:
            raise InvalidError("the JSON object is not complete: close every { with a }")
        if kind and rest.strip(_SPACE):
            return [Request("line" if kind in _LINES else kind, rest)]
        if rest.strip(_SPACE):
            raise InvalidError(_expected(self._kinds))
        return []

    @property
    def half_object(self) -> bool:
        """True in the middle of a JSON object."""
        return self._json is not None

    @property
    def pending(self) -> bool:
        """True when a request has begun and is not complete."""
        return bool(self._kind or self._buffer)

    def reset(self) -> None:
        """Forgets what was written since the last request."""
        self._kind = ""
        self._buffer.clear()
        self._json = None

    def _kind_of(self, head: bytes) -> str:
        """The kind that the first bytes tell; empty while they are too few."""
        if not head:
            return ""
        if "message" in self._kinds:
            return "message"
        if "object" in self._kinds and head.startswith(b"{"):
            return "object"
        if "markdown" in self._kinds and b"---".startswith(head[:3]):
            return "markdown" if len(head) >= 3 else ""
        for kind in _LINES:
            if kind in self._kinds:
                return kind
        raise InvalidError(_expected(self._kinds))

    async def _feed_object(self, data: bytes) -> list[Request]:
        if self._json is None:
            self._json = JsonFramer()
        try:
            complete = await self._json.feed(data)
        except BaseException:
            self.reset()
            raise
        if complete is None:
            return []
        value = self._json.value
        self.reset()
        return [Request("object", complete, value)]

    def _take_lines(self) -> list[Request]:
        end = self._buffer.rfind(b"\n")
        if end < 0:
            return []
        if self._buffer.count(b"\n") > LINES_MAX:
            raise InvalidError(f"a write may have {LINES_MAX} lines")
        kind, written = self._kind, bytes(self._buffer)
        self.reset()
        lines = [line for line in written[:end].split(b"\n") if line.strip(_SPACE)]
        rest = written[end + 1 :]
        if rest.strip(_SPACE):
            self._kind = kind
            self._buffer += rest
        if kind == "line" and len(lines) + self.pending > 1:
            self.reset()
            raise InvalidError("one request in one write: write the next line by itself")
        return [Request("line", line) for line in lines]


Act = Callable[[Any, Credentials, Request], Awaitable[bytes]]
"""What a complete request does to an object for a caller; returns the reply. Raises KernelError.

Suspends for as long as the request takes; cancelling it cancels the effect as far as the owner
of the effect promises.
"""


def _sentence(_: Any, exc: KernelError) -> bytes:
    return f"{exc}\n".encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Control:
    """One control file of a table.

    Attributes:
        kinds: the kinds of requests that it takes; `lines` for several lines in one write.
        act: does one request.
        manual: object → what a fresh read shows.
        path: object → the file's path, for sys/error_log.
        admit: (object, caller) → raises when no request can be taken, before any is complete.
        failed: (object, error) → what a failed request's handle reads.
    """

    kinds: frozenset[str]
    act: Act
    manual: Callable[[Any], bytes]
    path: Callable[[Any], str]
    admit: Callable[[Any, Credentials], object] | None = None
    failed: Callable[[Any, KernelError], bytes] = _sentence


class ControlNode(KernNode):
    """A file to write requests to.

    `used` is set by the first open for writing: directories whose requests take long (tools)
    give the next lookup a fresh node, for Linux holds an inode's lock while a write to it waits.
    """

    __slots__ = ("control_row", "used")

    def __init__(self, table: Table, row: Row, obj: Any, ino: int, control_row: Control) -> None:
        """A file of `table` that takes the requests of `control_row`."""
        super().__init__(table, row, obj, ino)
        self.control_row = control_row
        self.used = False

    def size(self) -> int:
        """The size of the manual."""
        return len(self.control_row.manual(self.obj))

    async def open(self, cred: Credentials, flags: int) -> File:
        """A handle with no request yet."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.used = True
        return ControlFile(self, cred, flags, self.table.background)


class ControlFile(File):
    """One conversation with a control file."""

    may_wait = True
    direct_io = True
    keep_cache = False

    def __init__(
        self, node: ControlNode, cred: Credentials, flags: int, background: Background
    ) -> None:
        """A handle of `cred`; every request it carries acts with these credentials."""
        super().__init__(node, cred, flags)
        self._control = node.control_row
        self._obj = node.obj
        self._background = background
        self._framing = Framing(self._control.kinds)
        self._reply: bytes | None = None
        self._refused: tuple[bytes, KernelError] | None = None
        self._busy = False
        self._base: int | None = 0
        self._pending: trio.CancelScope | None = None
        self._wakes: list[Callable[[], None]] = []

    async def write(self, data: bytes, offset: int) -> int:
        """Takes a piece of a request and, when that completes it, does it. The offset is ignored.

        Raises:
            KernelError: what the request failed with; its sentence is then readable here.
            BusyError: EBUSY, a request of this handle is still under way.

        Suspends until the request is done, or not at all with O_NONBLOCK.
        """
        if self.flags & os.O_ACCMODE == os.O_RDONLY:
            raise BadFileError("the file was opened for reading only")
        if self._pending is not None or self._busy:
            raise BusyError("the last request of this handle is still under way")
        self._check_refused(data)
        self._busy = True  # a flush of another descriptor meanwhile is nothing
        try:
            await self._do("write", self._framing.feed, data)
        finally:
            self._busy = False
        return len(data)

    async def flush(self) -> None:
        """Does the request that only a flush ends; with nothing pending it is nothing."""
        self._refused = None
        if self._pending is None and not self._busy and self.flags & os.O_ACCMODE != os.O_RDONLY:
            await self._do("flush", self._finish)

    async def fsync(self, *, datasync: bool) -> None:
        """Ends a message, as flush does."""
        await self.flush()

    async def read(self, size: int, offset: int) -> bytes:
        """The reply to the last request, or the manual when there was none.

        Raises:
            WouldBlockError: EAGAIN, the reply is not there yet (O_NONBLOCK).
        """
        refuse_read(self.flags)
        if self._pending is not None:
            raise WouldBlockError("the reply is not there yet")
        self._refused = None
        if self._reply is None:
            self._reply = self._control.manual(self._obj)
            self._base = 0
        if self._base is None:
            self._base = offset
        start = max(offset - self._base, 0)
        return self._reply[start : start + size]

    def ready(self) -> int:
        """Writable, and readable unless a reply is awaited."""
        return POLLOUT if self._pending is not None else POLLIN | POLLOUT

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Calls `wake` when the reply is there."""
        self._wakes.append(wake)

    async def release(self) -> None:
        """Cancels a request that nobody can read the reply of any more."""
        if self._pending is not None:
            self._pending.cancel()

    async def _finish(self) -> list[Request]:
        return self._framing.finish()

    def _check_refused(self, data: bytes) -> None:
        """Raises again what refused a piece in the middle of a large write.

        Linux cuts a write into pieces of 1 MiB and turns an error after the first into a short
        write; the writer then offers the rest again, and that must not begin a new request.
        """
        if self._refused is not None:
            piece, exc = self._refused
            common = min(len(piece), len(data))
            if piece[:common] == data[:common]:
                self._answer_failure(exc)
                raise exc
            self._refused = None

    async def _do(
        self, op: str, requests_of: Callable[..., Awaitable[list[Request]]], *args: bytes
    ) -> None:
        midway = self._framing.pending
        try:
            if self._control.admit is not None and args:
                self._control.admit(self._obj, self.cred)
            requests = await requests_of(*args)
            if requests and self.flags & os.O_NONBLOCK:
                self._start(op, requests)
            else:
                await self._act_all(requests)
        except KernelError as exc:
            self._framing.reset()
            if midway and args:
                self._refused = (args[0], exc)
            self._failed(op, exc)
            raise
        except trio.Cancelled:
            self._failed(op, InterruptedCallError("interrupted: the request was cut off"))
            raise

    async def _act_all(self, requests: list[Request]) -> None:
        for number, request in enumerate(requests):
            if number:
                await trio.lowlevel.checkpoint()
            self._answer(await self._control.act(self._obj, self.cred, request))

    def _start(self, op: str, requests: list[Request]) -> None:
        scope = self._pending = trio.CancelScope()

        async def work() -> None:
            try:
                with scope:
                    await self._act_all(requests)
            except KernelError as exc:
                self._failed(op, exc)
            except Exception as exc:  # a bug of the act must not end the kernel
                log.exception("a request to %s failed unexpectedly", self._control.path(self._obj))
                self._failed(op, KernelError(f"internal error: {type(exc).__name__}"))
            finally:
                self._pending = None
                wakes, self._wakes = self._wakes, []
                for wake in wakes:
                    wake()

        try:
            self._background.start(work)
        except KernelError:
            self._pending = None
            raise

    @property
    def unfinished(self) -> bool:
        """True in the middle of a JSON object, which a flush of another descriptor must not end."""
        return self._framing.half_object

    def _failed(self, op: str, exc: KernelError) -> None:
        self._answer_failure(exc)
        self._background.report(self.cred, self._control.path(self._obj), op, exc)

    def _answer_failure(self, exc: KernelError) -> None:
        given = exc.reply
        self._answer(self._control.failed(self._obj, exc) if given is None else given)

    def _answer(self, reply: bytes) -> None:
        self._reply = reply
        self._base = None


def control(table: Table, name: str, mode: int, row: Control) -> None:
    """Adds a control file to a table."""
    table.add(name, 0o100000 | mode, lambda r, obj, ino: ControlNode(table, r, obj, ino, row))


def _expected(kinds: frozenset[str]) -> str:
    if kinds == {"object"}:
        return 'write one JSON object, for example {"path": "/README"}'
    return "write one JSON object, one line, or Markdown that starts with ---"


def text_of(data: bytes) -> str:
    """A request in words. InvalidError EINVAL for what is not UTF-8, or has NUL."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidError("text must be UTF-8") from None
    if "\0" in text:
        raise InvalidError("text may not contain NUL")
    return text
