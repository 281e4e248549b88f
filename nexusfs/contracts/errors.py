"""Errors that carry their errno, and the one mapping from exception to errno.

KernelError
├── NotFoundError ENOENT ── UnknownToolError
├── NoProcessError ESRCH
├── ExistsError EEXIST
├── NotDirectoryError ENOTDIR      ├── IsDirectoryError EISDIR
├── NotEmptyError ENOTEMPTY        ├── NameTooLongError ENAMETOOLONG
├── SymlinkLoopError ELOOP         ├── CrossDeviceError EXDEV
├── InvalidError EINVAL            ├── TooBigError EFBIG
├── AccessError EACCES             ├── NotPermittedError EPERM
├── NotSpecError ENOEXEC           ├── BusyError EBUSY
├── BadFileError EBADF             ├── SeekError ESPIPE
├── WouldBlockError EAGAIN ── CapacityError
├── InterruptedCallError EINTR
├── PipeClosedError EPIPE          ├── DisconnectedError ENOTCONN
├── TimeoutExpiredError ETIMEDOUT  ├── StaleError ESTALE
├── NoDataError ENODATA            ├── RangeError ERANGE
├── NoSpaceError ENOSPC            ├── QuotaError EDQUOT
├── ReadOnlyError EROFS            ├── TooManyLinksError EMLINK
├── CorruptError EIO               ├── UnavailableError EOPNOTSUPP ── NoSandboxError
├── ToolFailedError EREMOTEIO
└── ModelError EREMOTEIO (kind, retryable)
"""

import errno as _errno
from typing import ClassVar


class KernelError(Exception):
    """A failure with an errno for the program and one sentence for the person.

    Attributes:
        reply: what the failed handle reads instead of the sentence, or None.
    """

    errno: ClassVar[int] = _errno.EIO
    reply: bytes | None = None


class NotFoundError(KernelError):
    """No such file, tool, agent or checkpoint."""

    errno = _errno.ENOENT


class UnknownToolError(NotFoundError):
    """No tool of that name that the caller may see."""


class NoProcessError(KernelError):
    """No process has that pid."""

    errno = _errno.ESRCH


class ExistsError(KernelError):
    """The name is taken."""

    errno = _errno.EEXIST


class NotDirectoryError(KernelError):
    """A directory was needed."""

    errno = _errno.ENOTDIR


class IsDirectoryError(KernelError):
    """Anything but a directory was needed."""

    errno = _errno.EISDIR


class NotEmptyError(KernelError):
    """A directory still has entries."""

    errno = _errno.ENOTEMPTY


class NameTooLongError(KernelError):
    """A name is over 255 bytes or a path over 4096."""

    errno = _errno.ENAMETOOLONG


class SymlinkLoopError(KernelError):
    """More than 40 symlinks in one walk."""

    errno = _errno.ELOOP


class CrossDeviceError(KernelError):
    """A rename or link would cross filesystems."""

    errno = _errno.EXDEV


class InvalidError(KernelError):
    """The request is malformed; the message says what to write instead."""

    errno = _errno.EINVAL


class TooBigError(KernelError):
    """A request or a file is over its limit."""

    errno = _errno.EFBIG


class AccessError(KernelError):
    """Permission bits or a rule deny it."""

    errno = _errno.EACCES


class NotPermittedError(KernelError):
    """Only an owner or root may, or nobody may."""

    errno = _errno.EPERM


class NotSpecError(KernelError):
    """An executable file of /bin is not an agent."""

    errno = _errno.ENOEXEC


class BusyError(KernelError):
    """Not allowed in this state."""

    errno = _errno.EBUSY


class BadFileError(KernelError):
    """The descriptor is closed, or was not opened for this."""

    errno = _errno.EBADF


class SeekError(KernelError):
    """A stream cannot be read at an offset."""

    errno = _errno.ESPIPE


class WouldBlockError(KernelError):
    """Nothing yet, and the caller asked not to wait; or no capacity is left."""

    errno = _errno.EAGAIN


class CapacityError(WouldBlockError):
    """As many as may run at once do: a refusal of the kernel's, not a tool's failure."""


class InterruptedCallError(KernelError):
    """A signal ended the wait."""

    errno = _errno.EINTR


class PipeClosedError(KernelError):
    """The reader at the other end has ended."""

    errno = _errno.EPIPE


class DisconnectedError(KernelError):
    """The kernel is shutting down."""

    errno = _errno.ENOTCONN


class TimeoutExpiredError(KernelError):
    """The deadline passed."""

    errno = _errno.ETIMEDOUT


class StaleError(KernelError):
    """The inode went away between lookup and use; Linux looks it up again."""

    errno = _errno.ESTALE


class NoDataError(KernelError):
    """No such extended attribute."""

    errno = _errno.ENODATA


class RangeError(KernelError):
    """A value does not fit the buffer or the limit."""

    errno = _errno.ERANGE


class NoSpaceError(KernelError):
    """The store's disk is full."""

    errno = _errno.ENOSPC


class QuotaError(KernelError):
    """A budget is spent."""

    errno = _errno.EDQUOT


class ReadOnlyError(KernelError):
    """The store is mounted read-only."""

    errno = _errno.EROFS


class TooManyLinksError(KernelError):
    """A link count would overflow."""

    errno = _errno.EMLINK


class CorruptError(KernelError):
    """Stored bytes do not match their digest, or are missing."""

    errno = _errno.EIO


class UnavailableError(KernelError):
    """The service is off or degraded, or this version does not have it."""

    errno = _errno.EOPNOTSUPP


class NoSandboxError(UnavailableError):
    """Nothing here can hold a program: a refusal of the kernel's, not a tool's failure."""


class ToolFailedError(KernelError):
    """A tool says that it failed; its text goes to the model or to the caller."""

    errno = _errno.EREMOTEIO


class ModelError(KernelError):
    """A model call failed for good.

    Attributes:
        kind: `auth`, `rate_limit`, `timeout`, `connection`, `server`, `bad_request`,
            `context_length`, `not_found`, `cut` (the stream ended early) or `unknown`.
        retryable: another attempt may succeed: rate limits, timeouts, connections, 5xx.
    """

    errno = _errno.EREMOTEIO

    def __init__(self, message: str, *, kind: str = "unknown", retryable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable


def errno_of(exc: BaseException) -> int:
    """The errno of an exception; EIO for anything that is not a KernelError.

    The only mapping there is: FUSE, JSON-RPC and the CLI use it.
    """
    return exc.errno if isinstance(exc, KernelError) else _errno.EIO


def error_of(number: int, message: str) -> KernelError:
    """The error with that errno; NotPermittedError EPERM where none of ours has it.

    For errnos that come from outside: a hook's OSError, or its exit status.
    """
    for kind in KernelError.__subclasses__():
        if kind.errno == number and kind is not ModelError:
            return kind(message)
    return NotPermittedError(message)
