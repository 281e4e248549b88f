"""Hooks: code of others that is told of, and may refuse, what agents begin to do.

A hook is any object with one or more methods named after the points below; each takes the
context of its point. A method is a plain function or an async one.

    pre_spawn, pre_dispatch      before the effect: raising a KernelError or OSError refuses it,
                                 with that errno, and nothing is left behind
    post_spawn, post_dispatch    after it: raising becomes a warning in the reply
    pre_terminate                an end is about to be recorded; it cannot be refused
    post_terminate               it was; an async method runs beside the kernel
    refused                      something was refused, by rights or by a hook

Hooks run in order of registration; one that lacks a method is passed over.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nexusfs.contracts.agent import AgentSpec

POINTS = (
    "pre_spawn", "post_spawn", "pre_terminate", "post_terminate", "pre_dispatch", "post_dispatch",
    "refused",
)  # fmt: skip


class Identity(NamedTuple):
    """Who a caller is, in the order in which a context begins; see `HookContext`."""

    agent_id: str
    zone_id: str
    pid: int
    parent_pid: int
    uid: int
    metadata: dict[str, Any]


@dataclass(slots=True)
class HookContext:
    """Whom it is about: an agent, or a person where `pid` is 0.

    Attributes:
        agent_id, zone_id, pid, parent_pid: of the agent; `pid` is 0 before it has one.
        uid: of its owner.
        metadata: of its spec.
        warnings: what the reply is to warn of.
    """

    agent_id: str
    zone_id: str
    pid: int
    parent_pid: int
    uid: int
    metadata: dict[str, Any]
    warnings: list[str] = field(default_factory=list, kw_only=True)


@dataclass(slots=True)
class SpawnContext(HookContext):
    """A spawn, with the effective spec."""

    spec: AgentSpec


@dataclass(slots=True)
class TerminateContext(HookContext):
    """An end: the exit code (below 0: a signal) and the reason."""

    exit_code: int
    reason: str


@dataclass(slots=True)
class DispatchContext(HookContext):
    """A tool call; `error` and `duration_ms` are of its outcome."""

    tool: str
    call_id: str
    arguments: dict[str, Any]
    error: str | None = None
    duration_ms: float = 0.0


@dataclass(slots=True)
class RefusalContext(HookContext):
    """What was refused: the operation, its object, the errno and the sentence."""

    op: str
    target: str
    errno: int
    message: str
