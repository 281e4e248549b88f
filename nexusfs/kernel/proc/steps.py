"""The running of a process's program: its steps, what cuts them off, and what they leave open."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, DisconnectedError, NoProcessError
from nexusfs.contracts.proc import ProcState
from nexusfs.kernel.clock import now_iso
from nexusfs.kernel.log import Log
from nexusfs.kernel.proc.caveats import Rights
from nexusfs.kernel.proc.fold import line_of
from nexusfs.kernel.proc.scopes import ModelSlot, Resting, Turn, Waiting
from nexusfs.kernel.sched import Slots


async def _on_disk_already() -> None:
    """A process without a journal on disk has nothing to wait for."""


@dataclass(slots=True)
class Host:
    """What all processes of a table share.

    Attributes:
        slots: of model calls.
        on_disk: returns when everything journaled so far is on disk.
    """

    slots: Slots = field(default_factory=Slots)
    on_disk: Callable[[], Awaitable[None]] = _on_disk_already


class Steps:
    """The part of a process that its program, and who cuts it off, use."""

    __slots__ = (
        "_errands", "_go", "_turn", "cred", "halting", "host", "open", "pid",
        "resting", "rights", "scope", "state", "waits",
    )  # fmt: skip

    pid: int
    cred: Credentials
    host: Host
    rights: Rights
    state: ProcState
    scope: trio.CancelScope
    open: dict[str, dict[str, Any]] | None
    waits: list[str]
    resting: bool
    halting: bool
    _go: trio.Event | None
    _turn: Turn | None
    _errands: set[trio.CancelScope] | None

    @property
    def events(self) -> Log:
        """All that happened to it."""
        raise NotImplementedError

    @property
    def stdout(self) -> Log:
        """What the model said."""
        raise NotImplementedError

    def record(self, kind: str, **fields: Any) -> None:
        """Journals one event and applies it."""
        raise NotImplementedError

    def touch(self) -> None:
        """Notes that something visible changed."""
        raise NotImplementedError

    async def has_ended(self) -> None:
        """Suspends until the process has ended."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """A piece of live model text."""
        self.stdout.push_live(text.encode("utf-8", "replace"))
        self.show("text_delta", text=text)

    def show(self, kind: str, **fields: Any) -> None:
        """A line of events_pipe that lives until the next event is recorded; not journaled."""
        self.events.push_live(line_of({"time": now_iso(), "type": kind, **fields}) + b"\n")

    def unsay(self) -> None:
        """Takes the live text back."""
        self.stdout.drop_live()
        self.events.drop_live()

    async def pause_point(self) -> None:
        """Suspends while the process is paused.

        Raises:
            DisconnectedError: ENOTCONN, the kernel is going: no further step begins.
        """
        while self.state is ProcState.PAUSED and not self.halting:
            self._go = trio.Event()
            with Resting(self):
                await self._go.wait()
        if self.halting:
            raise DisconnectedError("the kernel is going")

    def halt(self) -> None:
        """Lets the step under way settle and no other begin; what rests ends at once."""
        self.halting = True
        if self.resting:
            self.scope.cancel()

    async def on_disk(self) -> None:
        """Returns when everything journaled so far is on disk."""
        await self.host.on_disk()

    def model_slot(self) -> ModelSlot:
        """A model slot for the block; wchan `slot` until there is one."""
        return ModelSlot(self)

    def resume(self) -> None:
        """Frees a program that waits at its pause point."""
        if self._go is not None:
            self._go.set()

    def waiting_for(self, what: str) -> "Waiting":
        """Shows `what` in wchan while entered."""
        return Waiting(self, what)

    @contextlib.contextmanager
    def errand(self) -> Iterator[None]:
        """A block in which somebody else does something in the name of this process.

        NoProcessError ESRCH when the process has ended, or ends meanwhile: the block is cut off.
        """
        scope = trio.CancelScope()
        if not self.state.ended:
            self._errands = self._errands or set()
            self._errands.add(scope)
            try:
                with scope:
                    yield
            finally:
                self._errands.discard(scope)
            if not scope.cancelled_caught:
                return
        raise NoProcessError(f"agent {self.pid} has ended: its tools are gone")

    def cancel(self) -> None:
        """Cuts off the program, and all that is done in the name of the process."""
        self.scope.cancel()
        for scope in self._errands or ():
            scope.cancel()

    def turn_scope(self) -> "Turn":
        """One turn, which `interrupt` can drop."""
        self._turn = Turn(self)
        return self._turn

    def interrupt(self) -> None:
        """Drops the current turn. BusyError EBUSY when there is none."""
        if self._turn is None:
            raise BusyError(f"process {self.pid} has no turn under way")
        self._turn.cancel()

    def end_turn(self) -> None:
        """The turn is over, dropped or not."""
        self._turn = None

    def open_calls(self) -> list[dict[str, Any]]:
        """Tool calls of the transcript that have no result yet, in order."""
        return list((self.open or {}).values())

    def answer(self, call_id: str, text: str) -> None:
        """Gives an open call a result that no tool gave."""
        name = (self.open or {})[call_id]["function"]["name"]
        message = {"role": "tool", "tool_call_id": call_id, "name": name, "content": text}
        self.record("tool_result", id=call_id, name=name, error=text, message=message)

    def answer_open_calls(self, text: str) -> None:
        """Gives every open call the result `text`."""
        for call_id in list(self.open or ()):
            self.answer(call_id, text)

    async def programs_are_over(self) -> str:
        """Suspends until no program of it may go on, and says why. Cancelling has no effect.

        A program has the paths that it was started with, so it ends when they are cut.
        """
        why = ""
        async with trio.open_nursery() as nursery:

            async def first(wait: Callable[[], Awaitable[None]], reason: str) -> None:
                nonlocal why
                await wait()
                why = why or reason
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, self.has_ended, "its agent ended")
            nursery.start_soon(first, self.rights.paths_change, "the paths of its agent were cut")
        return why
