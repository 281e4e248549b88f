"""Processes: states and legal moves, exit status, and what a program sees of its process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.model import Message, Quote, Usage

if TYPE_CHECKING:
    from nexusfs.contracts.agent import AgentSpec

KERNEL_PID = 1
FIRST_PID = 2

EXIT_DONE, EXIT_FAILED, EXIT_LIMIT = 0, 1, 3
SIGINT_EXIT, SIGKILL_EXIT, SIGTERM_EXIT = -2, -9, -15

NICE_MIN, NICE_MAX = -20, 19
"""Source: nice(2)."""


class Priority(IntEnum):
    """The five classes of the scheduler; a lower number goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BEST_EFFORT = 4

    @classmethod
    def of(cls, spec: "AgentSpec") -> "Priority":
        """The class that a spec names."""
        return _PRIORITIES[spec.priority]

    @property
    def word(self) -> str:
        """Its name in a spec."""
        return self.name.lower()


_PRIORITIES = {one.word: one for one in Priority}


class ProcState(StrEnum):
    """The five states of a process."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ZOMBIE = "zombie"

    @property
    def letter(self) -> str:
        """The one-letter form of proc/<pid>/status."""
        return {"created": "C", "running": "R", "paused": "T", "stopped": "X", "zombie": "Z"}[self]

    @property
    def ended(self) -> bool:
        """True when the process will never run again."""
        return self is _STOPPED or self is _ZOMBIE


_STOPPED, _ZOMBIE = ProcState.STOPPED, ProcState.ZOMBIE
"""A member looked up on its class costs more than all the rest of `ended`."""

LEGAL_MOVES: dict[ProcState, frozenset[ProcState]] = {
    ProcState.CREATED: frozenset({ProcState.RUNNING, ProcState.ZOMBIE}),
    ProcState.RUNNING: frozenset({ProcState.PAUSED, ProcState.STOPPED, ProcState.ZOMBIE}),
    ProcState.PAUSED: frozenset({ProcState.RUNNING, ProcState.STOPPED, ProcState.ZOMBIE}),
    ProcState.ZOMBIE: frozenset({ProcState.STOPPED}),
    ProcState.STOPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: 0 done, > 0 error, < 0 signal; the time is RFC 3339 UTC."""

    pid: int
    exit_code: int
    reason: str
    terminated_at: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """An immutable snapshot of a process, for sys_proc_list and sys_proc_spawn."""

    pid: int
    agent_id: str
    name: str
    zone_id: str
    state: ProcState
    parent_pid: int
    uid: int
    turn_count: int
    warnings: tuple[str, ...] = ()


class WaitChannel(Protocol):
    """Shows what a process waits for while it is entered."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exc: object) -> None: ...


class TurnScope(Protocol):
    """One turn, which `int` can drop: the block is then left early and `interrupted` is true."""

    @property
    def interrupted(self) -> bool:
        """True when the turn was dropped."""
        ...

    def __enter__(self) -> "TurnScope": ...
    def __exit__(self, *exc: object) -> bool | None: ...


class Slot(Protocol):
    """A model slot, taken for the block; it may be given back, and taken again, within."""

    async def take(self) -> None:
        """Suspends, with wchan `slot`, until there is one. DisconnectedError ENOTCONN."""
        ...

    def give_back(self) -> None:
        """Frees it, where it is taken."""
        ...

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None: ...


class Held(Protocol):
    """A reservation within limits, given back at the end of the block or by `release`."""

    @property
    def answer_tokens(self) -> int:
        """How long the answer of a model call may be."""
        ...

    def excess(self, used: Usage) -> dict[str, float]:
        """What a model call used over it, of the limits that have a ceiling."""
        ...

    def release(self) -> None:
        """Gives it back; may be called twice."""

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...


class ProgramProcess(Protocol):
    """What a running program sees of its own process."""

    pid: int
    agent_id: str
    spec: "AgentSpec"
    cred: Credentials
    turns: int
    """Turns that led to another one."""
    rounds: int
    """Turns with tool calls since the last input."""
    dropped: bool
    """True after the last turn was dropped or failed, until the next message."""
    closing: bool
    """True when the model was told that this turn is its last, until the next message."""
    limit: str
    """The limit that made it so, as a sentence; empty when it was max_turns."""
    asked_again: int
    """How often the model was asked for an answer of the right shape since the last input."""
    kept_from: int
    """Messages of the transcript before this one, but for the task, go to the model no more."""
    summary: str
    """What stands for the messages that are left out; may be empty."""
    open: dict[str, dict[str, Any]] | None
    """Tool calls of the last message that have no result yet, by id, in order."""
    intents: set[str] | None
    """Ids of those whose `tool_call` is journaled."""
    begun: set[str] | None
    """Ids of those that may have had an effect already: they are not to be run again."""
    call_ids: set[str] | None
    """Ids of all tool calls of the transcript."""

    @property
    def transcript(self) -> list[Message]:
        """The conversation so far, provider-shaped; only `record` and `deliver` add to it."""
        ...

    @property
    def has_mail(self) -> bool:
        """True when messages wait to be delivered."""
        ...

    @property
    def has_news(self) -> bool:
        """True when tasks that it handed out have news that are not to wait for a next turn."""
        ...

    def record(self, kind: str, **fields: Any) -> None:
        """Appends one event to the journal; it survives kill -9 once this returns.

        A `message` field extends the transcript; a `usage` field is added up.
        """

    def say(self, text: str) -> None:
        """A piece of live model text, for the pipes; not journaled."""

    def unsay(self) -> None:
        """Takes the live text of this turn back: an attempt failed."""

    async def message_arrived(self) -> None:
        """Suspends, with wchan `message`, until a message waits, or news do."""

    def deliver(self) -> int:
        """Moves some waiting messages, at last the news, into the transcript; says how many.

        0 when none is left.

        Whoever wants all of them calls it again, and suspends between.
        """
        ...

    async def pause_point(self) -> None:
        """Suspends here while the process is paused; returns at once otherwise.

        DisconnectedError ENOTCONN when the kernel is going: no further step is to begin.
        """

    async def on_disk(self) -> None:
        """Returns when everything recorded so far is on disk."""

    def limit_reached(self) -> str | None:
        """The limit of it, or above it, that is spent, as a sentence; None while there is room."""
        ...

    @property
    def is_metered(self) -> bool:
        """True when tokens or cost have a ceiling, so that calls must be counted beforehand."""
        ...

    def hold_turn(self) -> Held:
        """Reserves a turn that may lead to another one. QuotaError EDQUOT."""
        ...

    def hold_call(self, quote: Quote, asked_tokens: int, *, closing: bool) -> Held:
        """Reserves a model call. QuotaError EDQUOT; NotPermittedError EPERM, not its model."""
        ...

    def asks(self, call_id: str) -> bool:
        """True while a person has not answered whether a call may run."""
        ...

    def check_tool(self) -> None:
        """QuotaError EDQUOT when no tool call is admitted any more."""

    def model_slot(self) -> Slot:
        """A model slot for the block; suspends, with wchan `slot`, until there is one."""
        ...

    def waiting_for(self, what: str) -> WaitChannel:
        """A context manager that shows `what` in wchan."""
        ...

    def turn_scope(self) -> TurnScope:
        """A context manager around one turn."""
        ...

    def open_calls(self) -> list[dict[str, Any]]:
        """The tool calls that have no result yet, in order."""
        ...

    def answer(self, call_id: str, text: str) -> None:
        """Gives an open call a result that no tool gave."""

    def answer_open_calls(self, text: str) -> None:
        """Gives every tool call without a result the result `text`: the history is valid then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: exit code (see EXIT_*), one-line reason, and the final answer."""

    exit_code: int
    reason: str
    result: str = ""


Program = Callable[[ProgramProcess], Awaitable[Outcome]]
"""Runs one process to its end. Cancelled from outside when the process is killed; the kernel then
answers open calls and records the end itself, so a program has nothing to clean up."""
