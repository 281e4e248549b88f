"""The edge where the kernel's errors become errnos, and nothing else gets out."""

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from nexusfs.contracts.errors import KernelError, errno_of

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def fuse_op(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Makes a request handler raise FUSEError and nothing else, whatever happens.

    pyfuse3 ends the whole mount on any other exception. trio.Cancelled is no Exception and
    passes: the mount is going then.
    """

    @functools.wraps(handler)
    async def safe(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as exc:
            if not isinstance(exc, KernelError):
                log.exception("%s failed unexpectedly", handler.__name__)
            raise pyfuse3.FUSEError(errno_of(exc)) from None

    return safe
