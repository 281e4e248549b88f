"""A file of /etc that decides what agents may do: trusted only when nobody else could write it.

It must be root's or the daemon's user's, and writable by nobody else; otherwise, or when it cannot
be understood, nothing that it could refuse is let through: a policy that is not read is not a
policy that allows.

Concurrency: the file is read again when the tree says that it may have changed, by one call while
the others wait; calls that overlap a change see the old content or the new one, whole.
"""

import json
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio
from pydantic import ValidationError

from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.errors import AccessError, KernelError, NotFoundError
from nexusfs.contracts.node import Changed
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.syscalls import Syscalls

log = logging.getLogger(__name__)

SIZE_MAX_BYTES = 1 << 20
T = TypeVar("T")


class TrustedFile(Generic[T]):
    """What a JSON file of the tree says; `empty` while there is none.

    Attributes:
        fault: why the file is not used.
        on_read: is told the fault, or None, each time the file was read.
        known: what was read last.
    """

    def __init__(
        self, calls: Syscalls, uid: int, path: str, parse: Callable[[Any], T], empty: T
    ) -> None:
        """The file must be root's or `uid`'s; `parse` raises ValueError or ValidationError."""
        self._files = BoundSyscalls(calls, KERNEL_CRED)
        self._uid = uid
        self._path = path
        self._names = tuple(name.encode() for name in path.split("/") if name)
        self._parse = parse
        self._empty = empty
        self._ino = 0
        self.known = empty
        self.fault: KernelError | None = None
        self.on_read: Callable[[KernelError | None], None] = _told_nobody
        self._changes = 1
        self._read_at = 0
        self._reading = trio.Lock()
        calls.vfs.watch.listen(self._changed)

    @property
    def stale(self) -> bool:
        """True when it has to be read again; also while it is being read."""
        return self._read_at != self._changes

    async def read(self) -> T:
        """What the file says now; where it has a fault, what is in `fault` counts.

        Suspends where the files do, and only after a change.
        """
        if self.stale:
            async with self._reading:
                if self.stale:
                    await self._take_in()
        return self.known

    async def _take_in(self) -> None:
        """Reads the file; until it is read what was known counts, and others wait."""
        changes, known, fault = self._changes, self._empty, None
        try:
            known = await self._parsed()
        except NotFoundError:
            pass
        except KernelError as exc:
            fault = exc
            log.error("%s", exc)
        self._read_at, self.known, self.fault = changes, known, fault
        self.on_read(fault)

    def _changed(self, changed: Changed) -> None:
        ours = changed.name is None and changed.node.ino == self._ino
        if ours or changed.name in self._names:
            self._changes += 1

    async def _parsed(self) -> T:
        """NotFoundError ENOENT, AccessError EACCES."""
        st = await self._files.stat(self._path)
        self._ino = st.ino
        if not st.is_file or st.uid not in (0, self._uid) or st.mode & 0o022:
            raise AccessError(
                f"{self._path} is not used, and nothing it could refuse is allowed: it must be a "
                "file of root's or the daemon's user, and writable by nobody else (chmod 644)"
            )
        try:
            return self._parse(
                json.loads(await self._files.read_file(self._path, size=SIZE_MAX_BYTES))
            )
        except ValidationError as exc:
            fault = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise AccessError(f"{self._path}: {where}: {fault['msg']}") from None
        except (ValueError, TypeError, RecursionError) as exc:
            raise AccessError(f"{self._path}: {exc}") from None


def _told_nobody(fault: KernelError | None) -> None:
    """Nobody shows how the file is."""
