"""Credentials: who is asking, at every door."""

from collections.abc import Callable
from functools import lru_cache

ROOT_UID = 0


class Credentials:
    """Who is asking: user, groups, and the agent on whose behalf, if any.

    Immutable by convention. `groups` and `session` are looked up at first use, because at
    the mount they cost a file read or a system call, which most requests do not need.

    Attributes:
        uid: POSIX user id.
        gid: primary group id.
        agent_pid: pid of the agent that asks; 0 for people, -1 for a caller who may be an agent's
            process and cannot be told.
        host_pid: the calling thread in the host's process table; 0 when unknown.
        door: `fuse`, `python`, `agent`, `tool`, `kernel`.
    """

    __slots__ = ("_groups", "_groups_of", "_session", "_session_of", "agent_pid", "door", "gid",
                 "host_pid", "uid")  # fmt: skip

    def __init__(  # noqa: PLR0913  each is a fact of its own
        self,
        uid: int,
        gid: int,
        *,
        groups: frozenset[int] | Callable[[int], frozenset[int]] = frozenset(),
        session: int | Callable[[int], int] = 0,
        agent_pid: int = 0,
        host_pid: int = 0,
        door: str = "python",
    ) -> None:
        """`groups` and `session` are values, or functions of `host_pid` called once."""
        self.uid = uid
        self.gid = gid
        self.agent_pid = agent_pid
        self.host_pid = host_pid
        self.door = door
        self._groups = groups if isinstance(groups, frozenset) else None
        self._groups_of = groups
        self._session = session if isinstance(session, int) else None
        self._session_of = session

    @property
    def groups(self) -> frozenset[int]:
        """Supplementary group ids."""
        if self._groups is None:
            assert callable(self._groups_of)
            self._groups = self._groups_of(self.host_pid)
        return self._groups

    @property
    def session(self) -> int:
        """POSIX session id of the caller; 0 in process."""
        if self._session is None:
            assert callable(self._session_of)
            self._session = self._session_of(self.host_pid)
        return self._session

    @property
    def is_root(self) -> bool:
        """True when permission bits do not bind the caller."""
        return self.uid == ROOT_UID

    def through(self, door: str) -> "Credentials":
        """The same caller at another door: what a tool does for him does not come from his."""
        return Credentials(
            self.uid,
            self.gid,
            groups=lambda _: self.groups,
            session=lambda _: self.session,
            agent_pid=self.agent_pid,
            host_pid=self.host_pid,
            door=door,
        )

    def as_agent(self, pid: int) -> "Credentials":
        """The same user, asking as agent `pid`."""
        return Credentials(
            self.uid,
            self.gid,
            groups=_shared(self.groups),
            session=self.session,
            agent_pid=pid,
            door="agent",
        )

    def __repr__(self) -> str:
        return (
            f"Credentials(uid={self.uid}, gid={self.gid}, agent_pid={self.agent_pid}, {self.door})"
        )


@lru_cache(1000)
def _shared(groups: frozenset[int]) -> frozenset[int]:
    """An equal set that others have too: thousands of agents of one user keep one."""
    return groups


KERNEL_CRED = Credentials(ROOT_UID, 0, door="kernel")
