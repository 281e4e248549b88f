"""What each caller did last: the `.last` links of control directories."""

from typing import Generic, TypeVar

from nexusfs.contracts.cred import Credentials

T = TypeVar("T")

KEPT_CALLERS = 10_000
"""Sessions come and go; the one whose first entry is oldest is forgotten first."""


class Last(Generic[T]):
    """The last thing of each caller: by user id, POSIX session, and agent, if one asks."""

    def __init__(self) -> None:
        """Nobody did anything yet."""
        self._last: dict[tuple[int, int, int], T] = {}

    def set(self, cred: Credentials, value: T) -> None:
        """Keeps the caller's newest."""
        self._last[cred.uid, cred.session, cred.agent_pid] = value
        if len(self._last) > KEPT_CALLERS:
            del self._last[next(iter(self._last))]

    def get(self, cred: Credentials) -> T | None:
        """The caller's newest, or None."""
        return self._last.get((cred.uid, cred.session, cred.agent_pid))
