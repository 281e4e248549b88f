"""Credentials: who is asking, at every door."""

from collections.abc import Callable
from functools import lru_cache

ROOT_UID = 0


class Credentials:
    """Who is asking: user, groups, and the agent on whose behalf, if any.

    Immutable by convention. `groups`, `session` and `agent_pid` are looked up at first use,
    because at the mount they cost a file read or a system call, which most requests do not need.
    Who keeps credentials beyond a request keeps `to_keep()`.

    Attributes:
        uid: POSIX user id.
        gid: primary group id.
        host_pid: the calling thread in the host's process table; 0 when unknown.
        door: `fuse`, `python`, `agent`, `tool`, `kernel`.
    """

    __slots__ = ("_agent_of", "_agent_pid", "_groups", "_groups_of", "_session", "_session_of",
                 "door", "gid", "host_pid", "uid")  # fmt: skip

    def __init__(  # noqa: PLR0913  each is a fact of its own
        self,
        uid: int,
        gid: int,
        *,
        groups: frozenset[int] | Callable[[int], frozenset[int]] = frozenset(),
        session: int | Callable[[int], int] = 0,
        agent_pid: int | Callable[[int], int] = 0,
        host_pid: int = 0,
        door: str = "python",
    ) -> None:
        """`groups`, `session` and `agent_pid`: values, or functions of `host_pid` called once."""
        self.uid = uid
        self.gid = gid
        self._agent_pid = agent_pid if isinstance(agent_pid, int) else None
        self._agent_of = agent_pid
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
    def agent_pid(self) -> int:
        """Pid of the agent that asks; 0 for people.

        -1 for a caller who may be an agent's process and cannot be told: that agent does not exist.
        """
        if self._agent_pid is None:
            assert callable(self._agent_of)
            self._agent_pid = self._agent_of(self.host_pid)
        return self._agent_pid

    def to_keep(self) -> "Credentials":
        """These credentials, their agent looked up now: later the calling thread may be gone."""
        _ = self.agent_pid
        return self

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
