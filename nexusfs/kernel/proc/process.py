"""One process: its state is a fold over the events of its journal.

Concurrency: everything here runs in the trio thread, and nothing suspends but the four
methods that say so; between suspensions the fields agree with the journal.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from pydantic_core import to_json

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, DisconnectedError, KernelError
from nexusfs.contracts.model import Message, Usage
from nexusfs.contracts.proc import LEGAL_MOVES, ProcessInfo, ProcState
from nexusfs.contracts.times import iso, ns_of
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.log import Log
from nexusfs.kernel.proc.budget import Account, Totals
from nexusfs.kernel.proc.fold import FOLDS, extend, limits_of, line_of
from nexusfs.kernel.proc.question import Question
from nexusfs.kernel.proc.rights import Rights
from nexusfs.kernel.proc.scheduled import Scheduled
from nexusfs.kernel.proc.scopes import Resting, Turn
from nexusfs.kernel.proc.steps import Host, Steps
from nexusfs.kernel.tasks.inbox import Inbox
from nexusfs.kernel.tasks.task import Task

log = logging.getLogger(__name__)


AFTER_THE_END = ("state", "reaped", "settled")
"""Events that an ended process may still have."""

KEPT_BYTES = 64 * 1024
"""Streams of an ended process that are kept in memory; longer ones are read from the journal."""

DELIVERED_AT_ONCE = 32
"""Messages between two suspensions; 10,000 may wait for an agent that was paused."""

NO_CHILDREN: frozenset[int] = frozenset()
"""What the many without children share: an empty set has 216 bytes."""


@dataclass
class Counts:
    """What a process has used; costs in USD, None when a price is unknown."""

    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)


class Process(Scheduled, Steps):
    """One agent. See `contracts.proc.ProgramProcess` for what its program may do with it."""

    __slots__ = (
        "_append",
        "_changed_at_ns",
        "_ending",
        "_events",
        "_mail_waiter",
        "_messages",
        "_stdout",
        "_transcript",
        "_unjournaled",
        "_unread",
        "above",
        "agent_id",
        "asked_again",
        "begun",
        "call_ids",
        "children",
        "closing",
        "counts",
        "dropped",
        "ended_at",
        "evicted",
        "exit_code",
        "heirs",
        "inbox",
        "installed",
        "intents",
        "kept_from",
        "limit",
        "live",
        "mail",
        "nice",
        "parent_pid",
        "questions_asked",
        "reaped",
        "reason",
        "result",
        "rounds",
        "started_at",
        "started_ns",
        "summary",
        "task",
        "trouble",
        "turns",
        "version",
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
        self.rights = Rights(pid)
        self.account = Account(pid)
        self.above: Process | None = None
        self.heirs = 0
        self.reaped = self.live = False
        self.state = ProcState.CREATED
        self.children: frozenset[int] | set[int] = NO_CHILDREN
        self.counts = Counts()
        self._transcript: list[Message] = []
        self.mail: list[str] = []
        self._events = Log()
        self._stdout = Log(keeps_live=True)
        self._messages = Log()
        self._unread: Callable[[], list[bytes]] | None = None
        self._unjournaled = False
        self.scope = trio.CancelScope()
        self.started_at = self.ended_at = ""
        self.started_ns = 0
        self.exit_code: int | None = None
        self.reason = self.result = ""
        self.warnings: tuple[str, ...] = ()
        self.dropped = self.closing = self.halting = self.resting = False
        self.asked: dict[int, Question] | None = None
        self._answers: trio.lowlevel.ParkingLot | None = None
        self.turns = self.version = self.questions_asked = 0
        self.rounds = self.asked_again = self.kept_from = self.nice = 0
        self.summary = self.trouble = self.limit = ""
        self.open: dict[str, dict[str, Any]] | None = None
        self.intents: set[str] | None = None
        self.begun: set[str] | None = None
        self.call_ids: set[str] | None = None
        self.waits: list[str] = []
        self.task: Task | None = None
        self.inbox: Inbox | None = None
        self.claim, self.estimate_s, self.evicted = None, 0.0, False
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

    def be_born_of(self, parent: "Process | None") -> None:
        """Says who spawned it, for good: what binds that one binds this one, adopted or not."""
        self.above = parent
        living = not self.state.ended
        if parent is None:
            self.account.hang_below(self.host.purse_of(self.cred.uid), living=living)
            return
        parent.heirs += 1
        self.rights.hang_below(parent.rights)
        self.account.hang_below(parent.account, living=living)

    def book(self, **used: Any) -> None:
        """Books a use of this process, for an event that is folded; fields of `Totals`."""
        near = self.account.book(Totals(**used))
        for text in near if self.live else ():
            self.record("warning", text=text)

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
        self.mail = []
        booked, self.account = self.account, Account(self.pid)  # all of it is booked already
        bound, self.rights = self.rights, Rights(self.pid)  # and what binds it now is known
        self.counts = Counts()
        self.turns = self.rounds = 0
        self.warnings = tuple(json.loads(lines[0])["warnings"])
        try:
            for line in lines:
                self.apply(json.loads(line), line)
        finally:
            self.account, self.rights = booked, bound
        self._close_streams()
        if self._streams_bytes() > KEPT_BYTES:
            self.host.was_read(self.forget_streams)

    def _streams_bytes(self) -> int:
        return sum(len(log.data) for log in (self._stdout, self._messages, self._events))

    def forget_streams(self) -> None:
        """Lets the streams of an ended process go; whoever has one open keeps it.

        Not those that the journal does not have to their end, for its disk was full.
        """
        read = self.host.read
        if read is None or self._unjournaled or self._unread is not None:
            return
        self._transcript, self.call_ids = [], None
        self._events, self._stdout, self._messages = Log(), Log(keeps_live=True), Log()
        self.leave_unread(partial(read, self.pid))

    @property
    def events(self) -> Log:
        """All that happened to it."""
        if self._unread is not None:
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
        if self._unread is not None:
            self._read()
        return self._transcript

    # -- the fold

    def record(self, kind: str, **fields: Any) -> None:
        """Journals one event and applies it. It survives kill -9 once this returns.

        Raises:
            DisconnectedError: ENOTCONN, the process has ended: nothing happens to it any more.
        """
        if self.state.ended and kind not in AFTER_THE_END:
            raise DisconnectedError(f"process {self.pid} has ended")
        at_ns = now_ns() // 1_000_000 * 1_000_000  # as the event says it
        event = {"time": iso(at_ns), "type": kind, **fields}
        try:
            line = to_json(event)
        except ValueError:  # a lone surrogate of a provider: memory is what the journal says
            line = line_of(event)
            event = json.loads(line)
        self._append(self.pid, line)
        if self._unread is None:
            self.apply(event, line, at_ns)
        else:  # the streams are read with this line in them, if they ever are
            self.fold(event, at_ns)
        if self.task is not None:
            self.host.on_worker_event(self)

    def journal_if_ended(self) -> None:
        """As `journal_if_possible`, for a process that has ended."""
        if self.state.ended:
            self.journal_if_possible()

    def journal_if_possible(self) -> None:
        """From now on a journal that cannot be written is a log line: the process is ending."""
        append = self.host.append_last or self._append

        def tolerant(pid: int, line: bytes) -> None:
            try:
                append(pid, line)
            except KernelError as exc:
                log.error("the end of agent %d is not in its journal: %s", pid, exc)
                self._unjournaled = True

        self._append = tolerant

    def apply(self, event: dict[str, Any], line: bytes, at_ns: int = 0) -> None:
        """Folds one event, live or from the journal, into the state; `at_ns` where it is known."""
        self._events.append(line + b"\n")
        message = event.get("message")
        if isinstance(message, dict):
            extend(self, message)
        self.fold(event, at_ns)

    def fold(self, event: dict[str, Any], at_ns: int = 0) -> None:
        """What an event does to the state, but for events and transcript."""
        fold = FOLDS.get(event["type"])
        if fold is not None:
            fold(self, event)
        if self.task is not None:
            self.task.apply(event)
        self.version += 1
        self._changed_at_ns = at_ns or ns_of(event["time"])

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
        self.account.ended()
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
            "limits": limits_of(self.account),
            "settled": self.account.settled.to_json() if self.account.settled else {},
            "caveats": [caveat.to_json() for caveat in self.rights.caveats],
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
        """Ends all streams, wakes all who wait for the end, and lets long streams go."""
        self._close_streams()
        if self._streams_bytes() > KEPT_BYTES:
            self.forget_streams()

    def _close_streams(self) -> None:
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
        """Moves waiting messages into the transcript, DELIVERED_AT_ONCE; then news of its tasks."""
        count = min(len(self.mail), DELIVERED_AT_ONCE)
        for _ in range(count):
            self.record("input", message={"role": "user", "content": self.mail[0]})
        if not self.mail and self.inbox is not None and self.inbox.unread:
            text, seen = self.host.news(self)
            self.record("news", seen=seen, message={"role": "user", "content": text})
            count += 1
        return count
