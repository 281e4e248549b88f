"""Which events of its tasks a copilot has seen: a fold of its own journal."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Inbox:
    """Of one copilot, by task id.

    Attributes:
        seen: how many events of a task it was told of, or took by a collect.
        unread: tasks that have news which go into its next prompt.
        urgent: those of them that do not wait for a next turn, but cause one.
        collected: tasks whose end it collected.
    """

    seen: dict[int, int] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    urgent: set[int] = field(default_factory=set)
    collected: set[int] = field(default_factory=set)

    def see(self, seen: dict[str, int]) -> None:
        """Folds an event: keys of JSON are text."""
        for key, count in seen.items():
            task_id = int(key)
            self.seen[task_id] = max(count, self.seen.get(task_id, 0))
            self.unread.discard(task_id)
            self.urgent.discard(task_id)
