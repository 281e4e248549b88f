"""Which agents have room in the kernel, which had to make it, and how long the queue may be.

Numbers alone: the process table pauses and continues agents by what is said here. Choosing costs
the number of different importances, however many agents there are.
"""

from nexusfs.contracts.errors import CapacityError
from nexusfs.contracts.proc import Priority

Importance = tuple[Priority, int]
"""Priority and nice; the higher it is, the sooner the agent makes room."""

_Lines = dict[Importance, dict[int, None]]


class Room:
    """The agents that live, by pid; None is no limit."""

    def __init__(self, resident_max: int | None = None, queue_max: int | None = None) -> None:
        """Room for so many agents, and for so many of them in the queue for a model slot."""
        self.resident_max = resident_max
        self.queue_max = queue_max
        self.expected: set[int] = set()
        """Agents with something to do that have not asked for their first slot yet."""
        self._residents: dict[int, Importance | None] = {}
        self._lines: _Lines = {}
        self._evicted: dict[int, Importance] = {}

    @property
    def residents(self) -> int:
        """Agents that live and were not evicted."""
        return len(self._residents)

    @property
    def evicted(self) -> list[int]:
        """Agents that wait for room, the first to get it first."""
        return sorted(self._evicted, key=self._evicted.__getitem__)  # stable: first out, first in

    def lacks(self, count: int = 1) -> bool:
        """True when there is no room for so many more."""
        return self.resident_max is not None and self.residents + count > self.resident_max

    def set(self, pid: int, importance: Importance | None) -> None:
        """An agent has room; None for one that may not be evicted now: immune, or paused."""
        self._unline(pid)
        self._evicted.pop(pid, None)
        self._residents[pid] = importance
        if importance is not None:
            self._lines.setdefault(importance, {})[pid] = None

    def evict(self, pid: int, importance: Importance) -> None:
        """An agent makes room."""
        self._unline(pid)
        self._residents.pop(pid, None)
        self.expected.discard(pid)
        self._evicted[pid] = importance

    def leave(self, pid: int) -> None:
        """An agent has ended."""
        self._unline(pid)
        self._residents.pop(pid, None)
        self._evicted.pop(pid, None)
        self.expected.discard(pid)

    def victim(self, priority: Priority) -> int | None:
        """The least important agent of a class below that one, of equals the youngest; or None."""
        last = max(self._lines, default=None)
        if last is None or last[0] <= priority:
            return None
        return next(reversed(self._lines[last]))

    def next_back(self) -> int | None:
        """Who goes on now: the most important of the evicted, when there is room for it."""
        if not self._evicted or self.lacks():
            return None
        return min(self._evicted, key=self._evicted.__getitem__)

    def check_queue(self, waiting: int, count: int) -> None:
        """CapacityError EAGAIN when so many more would be too many beside those that wait."""
        length = waiting + len(self.expected)
        if self.queue_max is not None and length + count > self.queue_max:
            raise CapacityError(
                f"the queue for a model slot is full: {length} agents are in it, queue_max of the "
                f"configuration is {self.queue_max}; try again when sys/sched shows fewer"
            )

    def _unline(self, pid: int) -> None:
        importance = self._residents.get(pid)
        if importance is not None:
            line = self._lines[importance]
            del line[pid]
            if not line:
                del self._lines[importance]
