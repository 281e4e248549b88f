"""The running of a process's program: its steps, what cuts them off, and what they leave open."""

import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    DisconnectedError,
    NoProcessError,
    NotPermittedError,
)
from nexusfs.contracts.model import Message, Quote
from nexusfs.contracts.proc import ProcState
from nexusfs.kernel.clock import now_iso
from nexusfs.kernel.log import Log
from nexusfs.kernel.proc.budget import Account, Hold
from nexusfs.kernel.proc.fold import line_of
from nexusfs.kernel.proc.question import Question
from nexusfs.kernel.proc.rights import Lists, Rights
from nexusfs.kernel.proc.scopes import WHOLE_TURN, ModelSlot, Resting, Turn, Waiting, WholeTurn
from nexusfs.kernel.sched.claim import Claim
from nexusfs.kernel.sched.room import Room
from nexusfs.kernel.sched.slots import Slots

if TYPE_CHECKING:
    from nexusfs.kernel.proc.process import Process

WAITS_FOR_OTHERS = frozenset({"approval", "tool:wait", "tool:collect", "tool:ask"})
NEVER_RAN = "interrupted: the call waited for a person's answer, and never ran"
LIVE_BYTES = 4 << 20
"""Of live lines in events_pipe. Older ones go, for what they say is recorded when it is whole."""
STREAMS_KEPT = 8
"""Ended processes whose long streams stay in memory after somebody read them."""


def answer_to(call: dict[str, Any], text: str) -> Message:
    """The message that gives a call the result `text`; also where it names no tool."""
    name = (call.get("function") or {}).get("name") or ""
    return {"role": "tool", "tool_call_id": call["id"], "name": name, "content": text}


async def _on_disk_already() -> None:
    """A process without a journal on disk has nothing to wait for."""


@dataclass(slots=True)
class Host:
    """What all processes of a table share.

    Attributes:
        slots: of model calls.
        room: for agents.
        on_disk: returns when everything journaled so far is on disk.
        purse_of: the account of a user, above those of all agents that he started.
        append_last: journals lines of an end, for which there is space also on a full disk; None
            where all are appended alike.
        read: gives the journal of a process; None where there is none to read.
        on_worker_event: is told of each process with a task to which something happened.
        news: the next message on a copilot's tasks, and which events it is of.
    """

    slots: Slots = field(default_factory=Slots)
    room: Room = field(default_factory=Room)
    on_disk: Callable[[], Awaitable[None]] = _on_disk_already
    purse_of: Callable[[int], Account | None] = lambda _: None
    append_last: Callable[[int, bytes], None] | None = None
    read: Callable[[int], list[bytes]] | None = None
    _read_last: deque[Callable[[], None]] = field(default_factory=deque)

    def was_read(self, forget: Callable[[], None]) -> None:
        """Notes that the long streams of an ended process are in memory; calls `forget` later."""
        self._read_last.append(forget)
        if len(self._read_last) > STREAMS_KEPT:
            self._read_last.popleft()()

    on_worker_event: "Callable[[Process], None]" = lambda _: None
    news: "Callable[[Process], tuple[str, dict[int, int]]]" = lambda _: ("", {})


class Steps:
    """The part of a process that its program, and who cuts it off, use."""

    __slots__ = (
        "_answers", "_errands", "_go", "_turn", "account", "asked", "claim", "cred", "estimate_s",
        "halting", "host", "open", "pid", "resting", "rights", "scope", "spec", "state", "waits",
    )  # fmt: skip

    pid: int
    cred: Credentials
    host: Host
    asked: dict[int, Question] | None
    questions_asked: int
    _answers: trio.lowlevel.ParkingLot | None
    account: Account
    rights: Rights
    state: ProcState
    scope: trio.CancelScope
    spec: AgentSpec
    open: dict[str, dict[str, Any]] | None
    waits: list[str]
    nice: int
    claim: Claim | None
    estimate_s: float
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
        if len(self.events.live) > LIVE_BYTES:
            self.events.drop_live()
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
        for_others = bool(self.waits) and all(map(_waits_for_others, self.waits))
        if self.resting or for_others:
            self.scope.cancel()

    async def on_disk(self) -> None:
        """Returns when everything journaled so far is on disk."""
        await self.host.on_disk()

    def limit_reached(self) -> str | None:
        """The limit of it, or above it, that is spent, as a sentence; None while there is room."""
        return self.account.reached()

    def set_deadline(self) -> None:
        """Lets the program be cut off when wall_seconds, of it or above it, are over."""
        left = self.account.left("wall_seconds")
        self.scope.deadline = math.inf if left is None else trio.current_time() + left

    @property
    def is_out_of_time(self) -> bool:
        """True when its program was cut off because its time was over."""
        over = self.scope.cancelled_caught and trio.current_time() >= self.scope.deadline
        return over and not self.state.ended and not self.halting

    @property
    def is_metered(self) -> bool:
        """True when tokens or cost have a ceiling, so that calls must be counted beforehand."""
        return any("tokens" in c or "cost_usd" in c for c in self.account.all_ceilings())

    def check_tool(self) -> None:
        """QuotaError EDQUOT when no tool call is admitted any more."""
        self.account.check_tool()

    def hold_turn(self) -> Hold:
        """A turn that may lead to another one. QuotaError EDQUOT."""
        return self.account.hold_turn()

    def hold_call(self, quote: Quote, asked_tokens: int, *, closing: bool) -> Hold:
        """Reserves a model call. QuotaError EDQUOT; NotPermittedError EPERM, the model is not its.

        A model that an ancestor may not hand on any more is not called.
        """
        for model in (self.spec.model, *self.spec.fallback_models):
            if not self.rights.may_call(model):
                raise NotPermittedError(f"the rights of an ancestor do not give it {model!r}")
        return self.account.hold_call(quote, asked_tokens, closing=closing)

    def model_slot(self) -> ModelSlot:
        """A model slot for the block; wchan `slot` until there is one."""
        return ModelSlot(self)

    # -- questions to people; see `Approvals`

    def questions(self) -> list[Question]:
        """Those that wait, and those whose call has not run yet."""
        return list((self.asked or {}).values())

    def question_of(self, call_id: str) -> Question | None:
        """The question about a call."""
        return next((one for one in self.questions() if one.call_id == call_id), None)

    def asks(self, call_id: str) -> bool:
        """True while a person has not answered whether a call may run."""
        question = self.question_of(call_id) if self.asked else None
        return question is not None and not question.verdict

    def ask(self, call_id: str, tool: str, arguments: dict[str, Any], why: str) -> Question:
        """Asks; the question survives a restart."""
        self.record(
            "question", question=self.questions_asked + 1, id=call_id, tool=tool,
            arguments=arguments, why=why,
        )  # fmt: skip
        assert self.asked is not None
        return self.asked[self.questions_asked]

    async def answered(self, question: Question) -> None:
        """Suspends until a question has its answer, which survives a restart too."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with self.waiting_for("approval"):
            while not question.verdict:
                self._answers = self._answers or trio.lowlevel.ParkingLot()
                await self._answers.park()

    def wake_answered(self) -> None:
        """Lets calls look whether their question has its answer."""
        if self._answers is not None:
            self._answers.unpark_all()

    def drop_question(self, question: Question) -> None:
        """Forgets a question whose call runs now; one of the model's goes with its result."""
        if question.call_id not in (self.open or ()):
            (self.asked or {}).pop(question.number, None)

    # -- going on, and not

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

    def cancel(self, *, runs: bool = True) -> None:
        """Cuts off the program if it runs, and all that is done in the name of the process."""
        if runs:
            self.scope.cancel()
        for scope in self._errands or ():
            scope.cancel()

    def turn_scope(self) -> Turn | WholeTurn:
        """One turn, which `interrupt` can drop where it does not end the agent."""
        if self.spec.mode == "oneshot":
            return WHOLE_TURN
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
        message = answer_to((self.open or {})[call_id], text)
        self.record("tool_result", id=call_id, name=message["name"], error=text, message=message)

    def answer_open_calls(self, text: str) -> None:
        """Gives every open call the result `text`, but for what waited for a person's answer.

        That is the first call that a person is still asked about, and all behind it.
        """
        ran = True
        for call_id in list(self.open or ()):
            ran = ran and not self.asks(call_id)
            self.answer(call_id, text if ran else NEVER_RAN)

    async def programs_are_over(self, granted: Lists) -> str:
        """Suspends until no program with these paths may go on, and says why.

        A program has the paths that it was started with, so it ends when they are cut. Cancelling
        has no effect.
        """
        why = ""
        async with trio.open_nursery() as nursery:

            async def first(wait: Callable[[], Awaitable[None]], reason: str) -> None:
                nonlocal why
                await wait()
                why = why or reason
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, self.has_ended, "its agent ended")
            cut = partial(self.rights.paths_change, granted)
            nursery.start_soon(first, cut, "the paths of its agent were cut")
        return why


def _waits_for_others(wait: str) -> bool:
    """True for a call that may be cut: it does nothing but wait, and waits on when resumed."""
    return wait in WAITS_FOR_OTHERS or wait.startswith("child:")
