"""What a program holds for a while: a wait that is shown, a turn that can be dropped, a slot."""

from typing import TYPE_CHECKING, Any

import trio

from nexusfs.contracts.proc import Priority, ProcState
from nexusfs.kernel.sched.claim import Claim

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


class WholeTurn:
    """A turn of a oneshot: `int` ends its agent, so nothing drops the turn alone."""

    interrupted = False

    def __enter__(self) -> "WholeTurn":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


WHOLE_TURN = WholeTurn()


class ModelSlot:
    """A model slot, held while the block runs but where it is given back; until then wchan `slot`.

    A process that is paused while it waits leaves the queue, and comes back when it goes on.
    """

    __slots__ = ("_process",)

    def __init__(self, process: "Steps") -> None:
        self._process = process

    async def take(self) -> None:
        """Suspends until there is one. Cancelling takes none."""
        process = self._process
        slots, claim = process.host.slots, claim_of(process)
        process.claim = claim
        process.host.room.expected.discard(process.pid)
        tried = process.state is not ProcState.PAUSED
        if tried and slots.try_take(claim):
            return
        try:
            while True:
                if not tried or process.halting:
                    await process.pause_point()
                with process.waiting_for("slot"), Resting(process):
                    taken = await (slots.wait(claim) if tried else slots.take(claim))
                tried = False
                if taken and process.state is not ProcState.PAUSED:
                    return
                if taken:
                    slots.give_back(claim)
        except BaseException:
            process.claim = None
            raise

    def give_back(self, *, is_whole: bool = True) -> None:
        """Frees it, where it is taken; how long a call that `is_whole` took is remembered."""
        process = self._process
        if process.claim is None:
            return
        lasted_s = process.host.slots.give_back(process.claim)
        process.claim = None
        if is_whole:
            process.estimate_s = (process.estimate_s or lasted_s) / 2 + lasted_s / 2

    async def __aenter__(self) -> "ModelSlot":
        await self.take()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.give_back(is_whole=kind is None)


def claim_of(process: "Steps") -> Claim:
    """What a process asks for when it wants a slot."""
    return Claim(
        process.cred.uid, process.pid, Priority.of(process.spec), process.nice, process.estimate_s
    )
