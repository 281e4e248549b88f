"""A file of /etc that decides what agents may do: trusted only when nobody else could write it.

It must be root's or the daemon's user's, and writable by nobody else; otherwise, or when it cannot
be understood, nothing that it could refuse is let through: a policy that is not read is not a
policy that allows.

Concurrency: the file is read again when the tree says that it may have changed; calls that overlap
a change see the old content or the new one, whole.
"""

import json
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

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
        stale: true when it has to be read again.
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
        self.stale = True
        calls.vfs.watch.listen(self._changed)

    async def read(self) -> T:
        """What the file says now; where it has a fault, what is in `fault` counts.

        Suspends where the files do, and only after a change.
        """
        if not self.stale:
            return self.known
        self.stale, self.known, self.fault = False, self._empty, None
        try:
            self.known = await self._parsed()
        except NotFoundError:
            pass
        except KernelError as exc:
            self.fault = exc
            log.error("%s", exc)
        return self.known

    def _changed(self, changed: Changed) -> None:
        ours = changed.name is None and changed.node.ino == self._ino
        if ours or changed.name in self._names:
            self.stale = True

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
