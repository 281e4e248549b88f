"""The gate that every system call passes: open or shut, counted, nothing unexpected gets out."""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import trio

from nexusfs.contracts.errors import DisconnectedError, KernelError, errno_of

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Gated")


class Gate:
    """Counts of calls, of errors by errno, and of crashes; and whether the kernel is shut.

    Attributes:
        calls: by syscall.
        errors: by (syscall, errno).
        crashes: exceptions that were no KernelError: our bugs, answered with EIO.
    """

    def __init__(self) -> None:
        """An open gate."""
        self.calls: Counter[str] = Counter()
        self.errors: Counter[tuple[str, int]] = Counter()
        self.crashes = 0
        self.shut = False

    def contain(self, name: str, exc: Exception) -> KernelError:
        """The error that the caller gets for `exc`; the unexpected is logged and becomes EIO."""
        self.errors[name, errno_of(exc)] += 1
        if isinstance(exc, KernelError):
            return exc
        self.crashes += 1
        log.error("%s failed unexpectedly", name, exc_info=exc)
        return KernelError(f"internal error in {name}: {type(exc).__name__}; the log has it")


class Gated(Protocol):
    """Anything whose methods are system calls."""

    gate: Gate


def syscall(
    call: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Makes a method pass the gate.

    Raises (beside the method's own): DisconnectedError ENOTCONN while the kernel shuts down.
    """
    name = call.__name__

    @functools.wraps(call)
    async def passed(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        gate: Gate = self.gate
        if gate.shut:
            raise DisconnectedError("the kernel is shutting down")
        gate.calls[name] += 1
        await trio.lowlevel.checkpoint_if_cancelled()  # what was killed makes no more calls
        try:
            return await call(self, *args, **kwargs)
        except Exception as exc:
            contained = gate.contain(name, exc)
            if contained is exc:
                raise
            raise contained from exc

    return cast(Callable[Concatenate[S, P], Coroutine[Any, Any, R]], passed)
