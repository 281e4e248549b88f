"""Tasks: what a copilot hands to a worker, the states of it, and what is seen from outside.

A task is done by one process, its worker, and has that process's number. The states and moves are
those of the A2A protocol: https://a2a-protocol.org/latest/specification/
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nexusfs.contracts.agent import AgentSpec, first_fault, known_keys, parse_spec
from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.words import nearest

WORKER_MAX_TURNS = 50
"""Of a worker whose spec and installed agent say nothing. Source: the reference's WorkerConfig."""
AFTER_MAX = 1000
"""Tasks that one may wait for."""

NEWS_HEADING = "[news of your tasks]"
"""First line of a message on tasks in a copilot's prompt: it is the kernel's, not a person's."""

Delivery = Literal["immediate", "deferred", "on_demand"]
Verb = Literal["cancel", "approve", "revise", "reject", "retry", "merge", "drop"]
VERBS: tuple[Verb, ...] = ("cancel", "approve", "revise", "reject", "retry", "merge", "drop")


class TaskState(StrEnum):
    """The states of a task, as A2A names them."""

    SUBMITTED = "submitted"
    WORKING = "working"
    INPUT_REQUIRED = "input-required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def final(self) -> bool:
        """True when nothing happens to the task any more."""
        return not LEGAL_TASK_MOVES[self]


_ENDS = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED})
LEGAL_TASK_MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.SUBMITTED: frozenset({TaskState.WORKING}) | _ENDS,
    TaskState.WORKING: frozenset({TaskState.INPUT_REQUIRED}) | _ENDS - {TaskState.REJECTED},
    TaskState.INPUT_REQUIRED: frozenset({TaskState.WORKING}) | _ENDS - {TaskState.REJECTED},
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELED: frozenset(),
    TaskState.REJECTED: frozenset(),
}

_TASK_KEYS = {
    "delivery": "delivery", "delivery_policy": "delivery", "after": "after",
    "on_failed": "on_failed", "budget_tokens": "budget_tokens",
    "idempotency_key": "idempotency_key",
}  # fmt: skip
"""Keys of a task; they may stand beside `worker`, or in it."""
_SPEC_ALIASES = {"agent_id": "agent", "zone_id": "zone", "tool_allowlist": "tools"}
"""The reference's names of a worker's fields. Source: REFERENCE, WorkerConfig."""


class TaskRequest(BaseModel):
    """What is to be done, and how its events come back."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    message: str = Field(min_length=1, description="what the worker is to do")
    delivery: Delivery = Field(
        "immediate",
        description="immediate: events are in the copilot's next prompt; deferred: together at its "
        "next turn; on_demand: kept until it collects",
    )
    after: tuple[int, ...] = Field(
        (), max_length=AFTER_MAX, description="tasks it waits for; their results come with it"
    )
    on_failed: Literal["reject", "run"] = Field(
        "reject", description="when one of `after` does not complete"
    )
    budget_tokens: int | None = Field(None, ge=1, description="all that the worker may use")
    idempotency_key: str | None = Field(None, max_length=256)

    @field_validator("after", mode="before")
    @classmethod
    def _ids(cls, value: object) -> object:
        """Ids as numbers or as text, each once."""
        if not isinstance(value, list | tuple):
            return value
        plain = [int(i) if isinstance(i, str) and i.isdecimal() else i for i in value]
        return tuple(dict.fromkeys(plain))


@dataclass(frozen=True, slots=True)
class Delegated:
    """A parsed request: the task, and the spec of the worker as one spawns it."""

    request: TaskRequest
    spec: AgentSpec

    def to_dict(self) -> dict[str, Any]:
        """The task as the worker's first event keeps it."""
        return self.request.model_dump(mode="json", exclude_defaults=True)


def parse_request(raw: dict[str, Any]) -> Delegated:
    """A request of any door: {"message", "worker": {…spec…} or "name", "delivery", "after", …}.

    InvalidError EINVAL names the JSON path and the nearest known key.
    """
    worker = raw.get("worker", {})
    if isinstance(worker, str):
        worker = {"agent": worker}
    if not isinstance(worker, dict):
        raise InvalidError('$.worker: write an object, {"agent": "…"}, or the name of an agent')
    outer = {key: value for key, value in raw.items() if key not in ("message", "worker")}
    task: dict[str, Any] = {"message": raw.get("message", "")}
    spec: dict[str, Any] = {}
    for given, where in ((outer, "$"), (worker, "$.worker")):
        for key, value in given.items():
            _put(key, value, where, task, spec)
    try:
        request = TaskRequest.model_validate(task)
    except ValidationError as exc:
        raise InvalidError(first_fault(exc)) from None
    return Delegated(request, _worker_spec(spec, request))


def _put(key: str, value: Any, where: str, task: dict[str, Any], spec: dict[str, Any]) -> None:
    """Sorts one key into the task or into the worker's spec."""
    into, name = (task, _TASK_KEYS[key]) if key in _TASK_KEYS else (spec, key)
    if into is spec:
        name = _SPEC_ALIASES.get(key, key)
        if where == "$":
            raise InvalidError(_unknown(key))
    if name in into:
        raise InvalidError(f"{where}.{key} is given twice")
    into[name] = value


def _unknown(key: str) -> str:
    if key in known_keys():
        return f'unknown key {key!r}: fields of the worker go into "worker": {{…}}'
    near = nearest(key, ["message", "worker", *_TASK_KEYS])
    hint = f"did you mean {near!r}?" if near else "read this file for the schema"
    return f"unknown key {key!r}: {hint}"


def _worker_spec(raw: dict[str, Any], request: TaskRequest) -> AgentSpec:
    if "task" in raw or "input" in raw:
        raise InvalidError('$.worker.task: what it is to do is the "message"')
    if raw.get("mode", "oneshot") != "oneshot":
        raise InvalidError("$.worker.mode: a worker ends with its answer, so it is oneshot")
    more: dict[str, Any] = {}
    if not request.after:
        more["task"] = request.message
    if request.idempotency_key is not None:
        more["idempotency_key"] = request.idempotency_key
    if request.budget_tokens is not None:
        limits = raw.get("limits", {})
        if not isinstance(limits, dict) or "tokens" in limits:
            raise InvalidError("$.worker.budget_tokens: it is the same as limits.tokens, say one")
        more["limits"] = {**limits, "tokens": request.budget_tokens}
    return parse_spec({**raw, **more})


def request_schema() -> dict[str, Any]:
    """JSON Schema of a request: what a fresh read of `delegate` shows."""
    schema = TaskRequest.model_json_schema()
    properties = schema["properties"]
    properties["worker"] = {
        "description": "a spec as proc/spawn takes it, or the name of an agent in /bin; the keys "
        "above but `message` may stand in it",
        "anyOf": [{"type": "object"}, {"type": "string"}],
    }
    return schema


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """An immutable snapshot of a task.

    Attributes:
        task_id, worker_pid: one number.
        copilot_pid: whose task it is; 1 for people's.
        version: counts what happened to it.
        question: what the worker asks while it is input-required.
        artifacts: name → path of the mount tree.
    """

    task_id: int
    worker_pid: int
    worker_agent_id: str
    copilot_pid: int
    state: TaskState
    version: int
    delivery_policy: Delivery
    message: str
    result: str
    reason: str
    question: str
    artifacts: dict[str, str]
    after: tuple[int, ...]
    budget_tokens: int | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collect found: tasks that have ended or ask something, and ids of the others."""

    tasks: tuple[TaskInfo, ...]
    pending: tuple[int, ...]
