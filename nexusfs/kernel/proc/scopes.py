"""What a program holds for a while: a wait that is shown, a turn that can be dropped, a slot."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from nexusfs.contracts.proc import ProcState

if TYPE_CHECKING:
    from nexusfs.kernel.proc.steps import Steps


class Waiting:
    """Shows what a process waits for; of several waits the latest is shown."""

    __slots__ = ("_process", "_what")

    def __init__(self, process: "Steps", what: str) -> None:
        self._process = process
        self._what = what

    def __enter__(self) -> None:
        self._process.waits.append(self._what)
        self._process.touch()

    def __exit__(self, *exc: object) -> None:
        self._process.waits.remove(self._what)
        self._process.touch()


class Resting:
    """Marks a process that has nothing under way: a clean stop may end it right here."""

    __slots__ = ("_process",)

    def __init__(self, process: "Steps") -> None:
        self._process = process

    def __enter__(self) -> None:
        self._process.resting = True

    def __exit__(self, *exc: object) -> None:
        self._process.resting = False


class Turn:
    """A cancel scope around one turn."""

    __slots__ = ("_process", "_scope")

    def __init__(self, process: "Steps") -> None:
        self._process = process
        self._scope = trio.CancelScope()

    def cancel(self) -> None:
        """Leaves the block early."""
        self._scope.cancel()

    @property
    def interrupted(self) -> bool:
        """True when the turn was dropped."""
        return self._scope.cancelled_caught

    def __enter__(self) -> "Turn":
        self._scope.__enter__()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        self._process.end_turn()
        return self._scope.__exit__(*exc)


class ModelSlot:
    """A model slot, held while the block runs; wchan `slot` until there is one.

    A process that is paused while it waits takes none: it comes back when it goes on.
    """

    __slots__ = ("_process",)

    def __init__(self, process: "Steps") -> None:
        self._process = process

    async def __aenter__(self) -> None:
        process = self._process
        slots, owner = process.host.slots, process.cred.uid
        if process.state is not ProcState.PAUSED and slots.try_take(owner):
            return
        while True:
            await process.pause_point()
            with process.waiting_for("slot"), Resting(process):
                await slots.take(owner)
            if process.state is not ProcState.PAUSED:
                return
            slots.give_back(owner)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.host.slots.give_back(self._process.cred.uid)
