"""One process: its state is a fold over the events of its journal.

Concurrency: everything here runs in the trio thread, and nothing suspends but the four
methods that say so; between suspensions the fields agree with the journal.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio
from pydantic_core import to_json

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, DisconnectedError, KernelError, NoProcessError
from nexusfs.contracts.model import Message, Usage
from nexusfs.contracts.proc import LEGAL_MOVES, ProcessInfo, ProcState
from nexusfs.contracts.times import ns_of
from nexusfs.kernel.clock import now_iso, now_ns
from nexusfs.kernel.log import Log
from nexusfs.kernel.proc.fold import FOLDS, extend, line_of
from nexusfs.kernel.proc.host import Host
from nexusfs.kernel.proc.rights import Rights
from nexusfs.kernel.proc.scopes import ModelSlot, Resting, Turn, Waiting
from nexusfs.kernel.tasks.inbox import Inbox
from nexusfs.kernel.tasks.task import Task

log = logging.getLogger(__name__)


WAITS_FOR_OTHERS = frozenset({"tool:wait", "tool:collect", "tool:ask"})

NO_CHILDREN: frozenset[int] = frozenset()
"""What the many without children share: an empty set has 216 bytes."""


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
        "_errands",
        "_events",
        "_go",
        "_mail_waiter",
        "_messages",
        "_stdout",
        "_transcript",
        "_turn",
        "_unread",
        "agent_id",
        "asked_again",
        "begun",
        "call_ids",
        "children",
        "closing",
        "counts",
        "cred",
        "dropped",
        "ended_at",
        "exit_code",
        "halting",
        "host",
        "inbox",
        "installed",
        "intents",
        "kept_from",
        "mail",
        "nice",
        "open",
        "parent_pid",
        "pid",
        "reason",
        "resting",
        "result",
        "rights",
        "rounds",
        "scope",
        "spec",
        "started_at",
        "started_ns",
        "state",
        "summary",
        "task",
        "trouble",
        "turns",
        "version",
        "waits",
        "warnings",
    )  # fmt: skip

    def __init__(
        self, pid: int, parent_pid: int, cred: Credentials, spec: AgentSpec,
        append: Callable[[int, bytes], None], host: Host | None = None,
    ) -> None:  # fmt: skip
        """A created process; `append` journals a line of it before it returns."""
        self.host = host or Host()
        self.pid = pid
        self.parent_pid = parent_pid
        self.cred = cred
        self.spec = spec
        self.agent_id = spec.name or spec.agent or f"agent-{pid}"
        self.installed = spec.agent
        self.rights: Rights = ()
        self.state = ProcState.CREATED
        self.children: frozenset[int] | set[int] = NO_CHILDREN
        self.counts = Counts()
        self.turns = 0
        self._transcript: list[Message] = []
        self.mail: list[str] = []
        self._events = Log()
        self._stdout = Log(keeps_live=True)
        self._messages = Log()
        self._unread: Callable[[], list[bytes]] | None = None
        self.scope = trio.CancelScope()
        self.started_at = self.ended_at = ""
        self.started_ns = 0
        self.exit_code: int | None = None
        self.reason = self.result = ""
        self.warnings: tuple[str, ...] = ()
        self.dropped = self.closing = self.halting = self.resting = False
        self.rounds = self.asked_again = self.kept_from = self.nice = 0
        self.summary = self.trouble = ""
        self.open: dict[str, dict[str, Any]] | None = None
        self.intents: set[str] | None = None
        self.begun: set[str] | None = None
        self.call_ids: set[str] | None = None
        self.waits: list[str] = []
        self.task: Task | None = None
        self.inbox: Inbox | None = None
        self.version = 0
        self._append = append
        self._changed_at_ns = now_ns()
        self._ending: Log | None = None
        self._errands: set[trio.CancelScope] | None = None
        self._go: trio.Event | None = None
        self._mail_waiter: trio.lowlevel.Task | None = None
        self._turn: Turn | None = None

    def add_child(self, pid: int) -> None:
        """Notes a child."""
        if not self.children:
            self.children = set()
        assert isinstance(self.children, set)
        self.children.add(pid)

    def drop_child(self, pid: int) -> None:
        """Forgets a child."""
        if isinstance(self.children, set):
            self.children.discard(pid)

    # -- the journal, read when it is asked for

    def leave_unread(self, read: Callable[[], list[bytes]]) -> None:
        """Says that the journal was not read, but for what the process shows in its status."""
        self._unread = read

    def _read(self) -> None:
        """Folds the whole journal, from the start."""
        if self._unread is None:
            return
        lines, self._unread = self._unread(), None
        self.counts = Counts()
        self.turns = self.rounds = 0
        self.warnings = tuple(json.loads(lines[0])["warnings"])
        for line in lines:
            self.apply(json.loads(line), line)
        self.close_streams()

    @property
    def events(self) -> Log:
        """All that happened to it."""
        self._read()
        return self._events

    @property
    def stdout(self) -> Log:
        """What the model said."""
        self._read()
        return self._stdout

    @property
    def messages(self) -> Log:
        """The transcript, as JSON Lines."""
        self._read()
        return self._messages

    @property
    def task_events(self) -> Log:
        """What happened to the task of a worker."""
        self._read()
        assert self.task is not None
        return self.task.events

    @property
    def transcript(self) -> list[Message]:
        """The transcript."""
        self._read()
        return self._transcript

    # -- the fold

    def record(self, kind: str, **fields: Any) -> None:
        """Journals one event and applies it. It survives kill -9 once this returns.

        Raises:
            DisconnectedError: ENOTCONN, the process has ended: nothing happens to it any more.
        """
        if self.state.ended and kind != "state":
            raise DisconnectedError(f"process {self.pid} has ended")
        self._read()  # before a line is added that it would read too
        event = {"time": now_iso(), "type": kind, **fields}
        try:
            line = to_json(event)
        except ValueError:  # a lone surrogate of a provider: memory is what the journal says
            line = line_of(event)
            event = json.loads(line)
        self._append(self.pid, line)
        self.apply(event, line)
        if self.task is not None:
            self.host.on_worker_event(self)

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
        self._events.append(line + b"\n")
        message = event.get("message")
        if isinstance(message, dict):
            extend(self, message)
        self.fold(event)

    def fold(self, event: dict[str, Any]) -> None:
        """What an event does to the state, but for events and transcript."""
        fold = FOLDS.get(event["type"])
        if fold is not None:
            fold(self, event)
        if self.task is not None:
            self.task.apply(event)
        self.version += 1
        self._changed_at_ns = ns_of(event["time"])

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
        self.record(
            "exit", state=state, exit_code=exit_code, reason=reason, result=result,
            totals=self.totals(),
        )  # fmt: skip

    def totals(self) -> dict[str, Any]:
        """What status shows of an ended process and only the whole journal would say."""
        used = self.counts.usage
        return {
            "ppid": self.parent_pid, "nice": self.nice, "warnings": list(self.warnings),
            "turns": self.turns, "model_calls": self.counts.model_calls,
            "tool_calls": self.counts.tool_calls, "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens, "cost_usd": used.cost_usd,
            **({"task": self.task.totals()} if self.task is not None else {}),
        }  # fmt: skip

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
        for log in (self._stdout, self._messages, self._events, self.ending):
            log.close()

    # -- messages

    def post(self, text: str, source: str) -> None:
        """A message for the next turn arrives; journaled, so an acknowledged one is never lost."""
        self.record("message", text=text, source=source)
        self.wake()

    def wake(self) -> None:
        """Lets a program that waits for a message look again."""
        if self._mail_waiter is not None:
            waiter, self._mail_waiter = self._mail_waiter, None
            trio.lowlevel.reschedule(waiter)

    @property
    def wchan(self) -> str:
        """What the process waits for; `0` when it works, or has ended."""
        return self.waits[-1] if self.waits and not self.state.ended else "0"

    @property
    def has_mail(self) -> bool:
        """True when messages wait to be delivered."""
        return bool(self.mail)

    @property
    def has_news(self) -> bool:
        """True when a task of this copilot has news that cause a turn."""
        return self.inbox is not None and bool(self.inbox.urgent)

    async def message_arrived(self) -> None:
        """Suspends until a message waits; for the program alone. Cancelling has no effect.

        By trio's own primitive: of 10,000 idle agents each would have a parking lot of 1 KiB.
        """

        def leave(_: object) -> trio.lowlevel.Abort:
            self._mail_waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.checkpoint_if_cancelled()
        with self.waiting_for("message"), Resting(self):
            while not (self.mail or self.has_news):
                self._mail_waiter = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(leave)

    def deliver(self) -> int:
        """Moves all waiting messages, and the news of its tasks, into the transcript."""
        count = len(self.mail)
        while self.mail:
            self.record("input", message={"role": "user", "content": self.mail[0]})
        if self.inbox is not None and self.inbox.unread:
            text, seen = self.host.news(self)
            self.record("news", seen=seen, message={"role": "user", "content": text})
            count += 1
        return count

    # -- the running program

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
        for_others = bool(self.waits) and all(map(_waits_for_others, self.waits))
        if self.resting or for_others:
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


def _waits_for_others(wait: str) -> bool:
    """True for a call that may be cut: it does nothing but wait, and waits on when resumed."""
    return wait in WAITS_FOR_OTHERS or wait.startswith("child:")
