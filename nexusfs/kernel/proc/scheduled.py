"""What the scheduler does with a process: it pauses, makes room, goes on, and gives way."""

from typing import TYPE_CHECKING, Any

import trio

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.proc import Priority, ProcState
from nexusfs.kernel.sched.claim import Claim
from nexusfs.kernel.sched.room import Importance

if TYPE_CHECKING:
    from nexusfs.kernel.proc.steps import Host


class Scheduled:
    """The part of a process that keeps slots and room up to date with its state."""

    __slots__ = ()

    if TYPE_CHECKING:
        host: Host
        pid: int
        spec: AgentSpec
        state: ProcState
        nice: int
        evicted: bool
        claim: Claim | None
        _go: trio.Event | None

    def record(self, kind: str, **fields: Any) -> None:
        """Journals one event and applies it."""
        raise NotImplementedError

    def check_move(self, state: ProcState) -> None:
        """BusyError EBUSY for a move that is not legal."""
        raise NotImplementedError

    def move(self, state: ProcState) -> None:
        """Moves to `state`."""
        raise NotImplementedError

    @property
    def importance(self) -> Importance:
        """How soon it makes room for others: the higher, the sooner."""
        return Priority.of(self.spec), self.nice

    def take_room(self) -> None:
        """Says to the room that it is here, as it is now."""
        room, running = self.host.room, self.state is ProcState.RUNNING
        if self.evicted:
            room.evict(self.pid, self.importance)
        else:
            room.set(self.pid, self.importance if running and not self.spec.immune else None)

    def renice(self, value: int) -> None:
        """Gives it another nice value, which counts at once."""
        self.record("nice", value=value)
        self.take_room()
        if self.claim is not None:
            self.host.slots.renice(self.claim, value)

    def pause(self) -> None:
        """Lets no further step begin. BusyError EBUSY unless it runs."""
        self.move(ProcState.PAUSED)
        self.host.room.set(self.pid, None)
        self._stand_aside()

    def evict(self) -> None:
        """Pauses it, to make room. BusyError EBUSY unless it runs."""
        self.check_move(ProcState.PAUSED)
        importance = self.importance
        self.record("evicted")
        self.host.room.evict(self.pid, importance)
        self._stand_aside()

    def _stand_aside(self) -> None:
        """A paused process waits for no slot."""
        if self.claim is not None and self.claim.task is not None:
            self.host.slots.withdraw(self.claim)

    def go_on(self) -> None:
        """Frees a program that waits at its pause point. BusyError EBUSY unless it is paused."""
        self.move(ProcState.RUNNING)
        self.take_room()
        if self._go is not None:
            self._go.set()
