"""One process: its state is a fold over the events of its journal.

Concurrency: everything here runs in the trio thread, and nothing suspends but the four
methods that say so; between suspensions the fields agree with the journal.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, DisconnectedError, KernelError
from nexusfs.contracts.model import Message, Usage
from nexusfs.contracts.proc import LEGAL_MOVES, ProcessInfo, ProcState
from nexusfs.kernel.clock import now_iso, now_ns, ns_of
from nexusfs.kernel.log import Log
from nexusfs.kernel.proc.rights import Rights

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What a process has used; costs in USD, None when a price is unknown."""

    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)


class Process:
    """One agent. See `contracts.proc.ProgramProcess` for what its program may do with it."""

    __slots__ = (
        "_append",
        "_changed_at_ns",
        "_ending",
        "_go",
        "_mail_lot",
        "_turn",
        "agent_id",
        "children",
        "counts",
        "cred",
        "dropped",
        "ended_at",
        "events",
        "exit_code",
        "installed",
        "mail",
        "messages",
        "parent_pid",
        "pid",
        "reason",
        "result",
        "rights",
        "scope",
        "spec",
        "started_at",
        "started_ns",
        "state",
        "stdout",
        "transcript",
        "turns",
        "version",
        "waits",
        "warnings",
    )  # fmt: skip

    def __init__(
        self, pid: int, parent_pid: int, cred: Credentials, spec: AgentSpec,
        append: Callable[[int, bytes], None],
    ) -> None:  # fmt: skip
        """A created process; `append` journals a line of it before it returns."""
        self.pid = pid
        self.parent_pid = parent_pid
        self.cred = cred
        self.spec = spec
        self.agent_id = spec.name or spec.agent or f"agent-{pid}"
        self.installed = spec.agent
        self.rights: Rights = ()
        self.state = ProcState.CREATED
        self.children: set[int] = set()
        self.counts = Counts()
        self.turns = 0
        self.transcript: list[Message] = []
        self.mail: deque[str] = deque()
        self.events = Log()
        self.stdout = Log(keeps_live=True)
        self.messages = Log()
        self.scope = trio.CancelScope()
        self.started_at = self.ended_at = ""
        self.started_ns = 0
        self.exit_code: int | None = None
        self.reason = self.result = ""
        self.warnings: tuple[str, ...] = ()
        self.dropped = False
        self.waits: list[str] = []
        self.version = 0
        self._append = append
        self._changed_at_ns = now_ns()
        self._ending: Log | None = None
        self._go: trio.Event | None = None
        self._mail_lot: trio.lowlevel.ParkingLot | None = None
        self._turn: Turn | None = None

    # -- the fold

    def record(self, kind: str, **fields: Any) -> None:
        """Journals one event and applies it. It survives kill -9 once this returns.

        Raises:
            DisconnectedError: ENOTCONN, the process has ended: nothing happens to it any more.
        """
        if self.state.ended and kind != "state":
            raise DisconnectedError(f"process {self.pid} has ended")
        event = {"time": now_iso(), "type": kind, **fields}
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        try:
            line = text.encode()
        except (
            UnicodeEncodeError
        ):  # a lone surrogate of a provider: memory is what the journal says
            line = text.encode("utf-8", "replace")
            event = json.loads(line)
        self._append(self.pid, line)
        self.apply(event, line)

    def journal_if_possible(self) -> None:
        """From now on a journal that cannot be written is a log line: the process is ending."""
        append = self._append

        def tolerant(pid: int, line: bytes) -> None:
            try:
                append(pid, line)
            except KernelError as exc:
                log.error("the end of agent %d is not in its journal: %s", pid, exc)

        self._append = tolerant

    def apply(self, event: dict[str, Any], line: bytes) -> None:
        """Folds one event, live or from the journal, into the state."""
        self.events.append(line + b"\n")
        message = event.get("message")
        if isinstance(message, dict):
            self._extend(message)
        fold = _FOLDS.get(event["type"])
        if fold is not None:
            fold(self, event)
        self.version += 1
        self._changed_at_ns = ns_of(event["time"])

    def _extend(self, message: Message) -> None:
        self.transcript.append(message)
        self.messages.append(
            json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        )
        text = message.get("content")
        if message["role"] == "assistant" and text:
            self.stdout.append(text.encode("utf-8", "replace") + b"\n")

    def touch(self) -> None:
        """Notes that something visible changed."""
        self.version += 1
        self._changed_at_ns = now_ns()

    @property
    def changed_at_ns(self) -> int:
        """When something visible last changed, ns since 1970."""
        return self._changed_at_ns

    # -- state

    def check_move(self, state: ProcState) -> None:
        """BusyError EBUSY for a move that is not legal."""
        if state not in LEGAL_MOVES[self.state]:
            raise BusyError(f"process {self.pid} is {self.state}: it cannot become {state}")

    def move(self, state: ProcState) -> None:
        """Moves to `state`. BusyError EBUSY for a move that is not legal."""
        self.check_move(state)
        self.record("state", **{"from": self.state, "to": state})

    def end(self, state: ProcState, exit_code: int, reason: str, result: str) -> None:
        """Records the end; one record, so that a crash cannot leave half of it."""
        self.check_move(state)
        self.record("exit", state=state, exit_code=exit_code, reason=reason, result=result)

    def info(self) -> ProcessInfo:
        """An immutable snapshot."""
        return ProcessInfo(
            self.pid, self.agent_id, self.agent_id, self.spec.zone, self.state, self.parent_pid,
            self.cred.uid, self.turns, self.warnings,
        )  # fmt: skip

    @property
    def ending(self) -> Log:
        """A log that closes when the process ends."""
        if self._ending is None:
            self._ending = Log(closed=self.state.ended)
        return self._ending

    async def has_ended(self) -> None:
        """Suspends until the process has ended. Cancelling has no effect."""
        while not self.state.ended:
            await self.ending.changed()

    def close_streams(self) -> None:
        """Ends all streams and wakes all who wait for the end."""
        for log in (self.stdout, self.messages, self.events, self.ending):
            log.close()

    # -- messages

    def post(self, text: str, source: str) -> None:
        """A message for the next turn arrives; journaled, so an acknowledged one is never lost."""
        self.record("message", text=text, source=source)
        if self._mail_lot is not None:
            self._mail_lot.unpark_all()

    @property
    def wchan(self) -> str:
        """What the process waits for; `0` when it works, or has ended."""
        return self.waits[-1] if self.waits and not self.state.ended else "0"

    @property
    def has_mail(self) -> bool:
        """True when messages wait to be delivered."""
        return bool(self.mail)

    async def message_arrived(self) -> None:
        """Suspends until a message waits. Cancelling has no effect."""
        with self.waiting_for("message"):
            while not self.mail:
                if self._mail_lot is None:
                    self._mail_lot = trio.lowlevel.ParkingLot()
                await self._mail_lot.park()

    def deliver(self) -> int:
        """Moves all waiting messages into the transcript."""
        count = len(self.mail)
        while self.mail:
            self.record("input", message={"role": "user", "content": self.mail[0]})
        return count

    # -- the running program

    def say(self, text: str) -> None:
        """A piece of live model text."""
        self.stdout.push_live(text.encode("utf-8", "replace"))
        self.show("text_delta", text=text)

    def show(self, kind: str, **fields: Any) -> None:
        """A line of events_pipe that lives until the next event is recorded; not journaled."""
        event = {"time": now_iso(), "type": kind, **fields}
        self.events.push_live(
            json.dumps(event, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        )

    def unsay(self) -> None:
        """Takes the live text back."""
        self.stdout.drop_live()
        self.events.drop_live()

    async def pause_point(self) -> None:
        """Suspends while the process is paused."""
        while self.state is ProcState.PAUSED:
            self._go = trio.Event()
            await self._go.wait()

    def resume(self) -> None:
        """Frees a program that waits at its pause point."""
        if self._go is not None:
            self._go.set()

    def waiting_for(self, what: str) -> "Waiting":
        """Shows `what` in wchan while entered."""
        return Waiting(self, what)

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
        answered = {m.get("tool_call_id") for m in self.transcript if m["role"] == "tool"}
        calls = [c for m in self.transcript for c in m.get("tool_calls") or ()]
        return [call for call in calls if call["id"] not in answered]

    def answer_open_calls(self, text: str) -> None:
        """Gives every open call the result `text`."""
        for call in self.open_calls():
            name = call["function"]["name"]
            message = {"role": "tool", "tool_call_id": call["id"], "name": name, "content": text}
            self.record("tool_result", id=call["id"], name=name, error=text, message=message)


class Waiting:
    """Shows what a process waits for; of several waits the latest is shown."""

    __slots__ = ("_process", "_what")

    def __init__(self, process: Process, what: str) -> None:
        self._process = process
        self._what = what

    def __enter__(self) -> None:
        self._process.waits.append(self._what)
        self._process.touch()

    def __exit__(self, *exc: object) -> None:
        self._process.waits.remove(self._what)
        self._process.touch()


class Turn:
    """A cancel scope around one turn."""

    __slots__ = ("_process", "_scope")

    def __init__(self, process: Process) -> None:
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


def _fold_spawn(process: Process, event: dict[str, Any]) -> None:
    process.started_at = event["time"]
    process.started_ns = event["time_ns"]
    process.state = ProcState.RUNNING
    if process.spec.task:
        process.mail.append(process.spec.task)


def _fold_state(process: Process, event: dict[str, Any]) -> None:
    process.state = ProcState(event["to"])


def _fold_message(process: Process, event: dict[str, Any]) -> None:
    process.mail.append(event["text"])


def _fold_input(process: Process, event: dict[str, Any]) -> None:
    process.dropped = False
    if process.mail:
        process.mail.popleft()


def _fold_dropped(process: Process, event: dict[str, Any]) -> None:
    process.dropped = True


def _fold_turn_end(process: Process, event: dict[str, Any]) -> None:
    process.turns += 1


def _fold_model_reply(process: Process, event: dict[str, Any]) -> None:
    used = event["usage"]
    process.counts.model_calls += 1
    process.counts.usage += Usage(used["input_tokens"], used["output_tokens"], used["cost_usd"])


def _fold_tool_call(process: Process, event: dict[str, Any]) -> None:
    process.counts.tool_calls += 1


def _fold_adopted(process: Process, event: dict[str, Any]) -> None:
    process.parent_pid = event["ppid"]


def _fold_exit(process: Process, event: dict[str, Any]) -> None:
    process.state = ProcState(event["state"])
    process.exit_code = event["exit_code"]
    process.reason = event["reason"]
    process.result = event["result"]
    process.ended_at = event["time"]


_FOLDS: dict[str, Callable[[Process, dict[str, Any]], None]] = {
    "spawn": _fold_spawn,
    "state": _fold_state,
    "message": _fold_message,
    "input": _fold_input,
    "turn_end": _fold_turn_end,
    "model_reply": _fold_model_reply,
    "tool_call": _fold_tool_call,
    "adopted": _fold_adopted,
    "interrupted": _fold_dropped,
    "model_error": _fold_dropped,
    "exit": _fold_exit,
}
"""What each kind of event does to a process; kinds that are not here only show in events."""
