"""Which agent a process of the host belongs to, for the requests that it makes of the mount.

A process is known by its PID namespace, which it can neither leave nor hide from whoever may look.
Where there is none of a sandbox's own (Landlock), or it is a namespace inside one, or Linux
does not tell (a process that made itself undumpable), its ancestors are followed up to the
first process of a sandbox: what loses its parent is given to an ancestor inside, so there is
always a way up. Nothing is cached by pid, for pids are used again.

People pay one dictionary look while no sandbox lives, and one stat while one does.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 0
UNKNOWN = -1
"""A caller who cannot be told from an agent: as an agent that does not exist, it gets no door."""
TRIES = 5
MAX_DEPTH = 10_000


class Callers:
    """The sandboxes that live, by what their processes can be told by.

    Concurrency: used in the trio thread alone; no method suspends. A sandbox is there from
    before its program starts until all its processes are dead.
    """

    def __init__(self) -> None:
        """No sandbox yet."""
        self._own_namespace = os.stat("/proc/self/ns/pid").st_ino
        self._namespaces: dict[int, int] = {}
        self._roots: dict[int, int] = {}
        self._bare = 0

    def __len__(self) -> int:
        return len(self._roots)

    @contextmanager
    def knowing(self, root: int, namespace: int, agent_pid: int) -> Iterator[None]:
        """While entered, the processes of a sandbox are agent `agent_pid`'s (0: a person's).

        `root` is the host pid of its first process, `namespace` the inode of its PID namespace,
        0 where it has none of its own.
        """
        self.add(root, namespace, agent_pid)
        try:
            yield
        finally:
            self.remove(root, namespace)

    def add(self, root: int, namespace: int, agent_pid: int) -> None:
        """A sandbox begins."""
        self._roots[root] = agent_pid
        if namespace:
            self._namespaces[namespace] = agent_pid
        else:
            self._bare += 1

    def remove(self, root: int, namespace: int) -> None:
        """All its processes are dead."""
        del self._roots[root]
        if namespace:
            del self._namespaces[namespace]
        else:
            self._bare -= 1

    def agent_of(self, host_pid: int) -> int:
        """The agent on whose behalf a thread of the host asks; 0 for people, -1 for unknown.

        `host_pid` must be the thread's number as this process sees it, of a thread that waits
        for us: it can't end and its number cannot be another's meanwhile.
        """
        if not self._roots or not host_pid:
            return NOBODY
        try:
            namespace = os.stat(f"/proc/{host_pid}/ns/pid").st_ino
        except OSError:  # undumpable, or another user's and we are not root
            return self._by_ancestors(host_pid)
        if namespace == self._own_namespace:
            return self._unless_free(host_pid) if self._bare else NOBODY
        known = self._namespaces.get(namespace)
        return self._by_ancestors(host_pid) if known is None else known

    def _unless_free(self, host_pid: int) -> int:
        """NOBODY at once for a process that may gain privileges, which nothing in a sandbox may."""
        status = _status(host_pid)
        if status is not None and b"\nNoNewPrivs:\t0\n" in status:
            return NOBODY
        return self._by_ancestors(host_pid)

    def _by_ancestors(self, host_pid: int) -> int:
        for _ in range(TRIES):  # a parent that ends meanwhile leaves its children to another
            found = self._climb(host_pid)
            if found is not None:
                return found
        return UNKNOWN

    def _climb(self, host_pid: int) -> int | None:
        pid = host_pid
        for _ in range(MAX_DEPTH):
            known = self._roots.get(pid)
            if known is not None:
                return known
            status = _status(pid)
            if status is None:
                return None
            pid = _parent(status)
            if pid == 0:
                return NOBODY
        return None


def _status(pid: int) -> bytes | None:
    """The status file of a process of the host; None when it is gone or hidden."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return file.read()
    except OSError:
        return None


def _parent(status: bytes) -> int:
    """The parent's pid, 0 for none. Source: proc_pid_status(5)."""
    start = status.index(b"\nPPid:\t") + 7
    return int(status[start : status.index(b"\n", start)])
