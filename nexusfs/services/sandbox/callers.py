"""Which agent a process of the host belongs to, for the requests that it makes of the mount.

A process is known by its PID namespace, which it can neither leave nor hide from whoever may look.
Where there is none of a sandbox's own (Landlock), or it is a namespace inside one, or Linux
does not tell (a process that made itself undumpable), its ancestors are followed up to the
first process of a sandbox: what loses its parent is given to an ancestor inside, so there is
always a way up. Nothing is cached by pid, for pids are used again.

People pay one look at a dictionary while no sandbox lives, and one readlink, 2 µs, while one does;
a stat of the same name takes 6.
"""

import os

NOBODY = 0
UNKNOWN = -1
"""A caller who cannot be told from an agent: as an agent that does not exist, it gets no door."""
TRIES = 5
MAX_DEPTH = 10_000
STATUS_BYTES = 1 << 16
"""More than a status file has; one read of it takes half the time of a file object."""


class Callers:
    """The sandboxes that live, by what their processes can be told by.

    Concurrency: used in the trio thread alone; no method suspends. A sandbox is there from
    before its program starts until all its processes are dead.
    """

    def __init__(self) -> None:
        """No sandbox yet."""
        self._own_namespace = os.readlink("/proc/self/ns/pid")
        self._namespaces: dict[str, int] = {}
        self._roots: dict[int, int] = {}
        self._bare = 0

    def __len__(self) -> int:
        return len(self._roots)

    def add(self, root: int, namespace: int, agent_pid: int) -> None:
        """From now on the processes of a sandbox are agent `agent_pid`'s (0: a person's).

        `root` is the host pid of its first process, `namespace` the inode of its PID namespace,
        0 where it has none of its own.
        """
        self._roots[root] = agent_pid
        if namespace:
            self._namespaces[_link(namespace)] = agent_pid
        else:
            self._bare += 1

    def remove(self, root: int, namespace: int) -> None:
        """All its processes are dead."""
        del self._roots[root]
        if namespace:
            del self._namespaces[_link(namespace)]
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
            namespace = os.readlink(f"/proc/{host_pid}/ns/pid")
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


def _link(namespace: int) -> str:
    """What /proc/<pid>/ns/pid says of a PID namespace. Source: namespaces(7)."""
    return f"pid:[{namespace}]"


def _status(pid: int) -> bytes | None:
    """The status file of a process of the host; None when it is gone or hidden."""
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, STATUS_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)


def _parent(status: bytes) -> int:
    """The parent's pid, 0 for none. Source: proc_pid_status(5)."""
    start = status.index(b"\nPPid:\t") + 7
    return int(status[start : status.index(b"\n", start)])
