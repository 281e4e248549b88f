"""What all processes of a table share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nexusfs.kernel.sched import Slots

if TYPE_CHECKING:
    from nexusfs.kernel.proc.process import Process


async def _on_disk_already() -> None:
    """A process without a journal on disk has nothing to wait for."""


@dataclass(slots=True)
class Host:
    """What all processes of a table share.

    Attributes:
        slots: of model calls.
        on_disk: returns when everything journaled so far is on disk.
        on_worker_event: is told of each process with a task to which something happened.
        news: the next message on a copilot's tasks, and which events it is of.
    """

    slots: Slots = field(default_factory=Slots)
    on_disk: Callable[[], Awaitable[None]] = _on_disk_already
    on_worker_event: Callable[["Process"], None] = lambda _: None
    news: Callable[["Process"], tuple[str, dict[int, int]]] = lambda _: ("", {})
