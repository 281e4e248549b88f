"""What the tools on agents and tasks share."""

import json
import math
from typing import Any

from nexusfs.contracts.errors import UnavailableError
from nexusfs.contracts.task import TaskInfo
from nexusfs.contracts.tool import AgentCalls, ToolContext

WAITS_S = math.inf
"""Of tools that wait for others: they take a timeout of their own, and a cancel wakes them."""


def agents_of(ctx: ToolContext) -> AgentCalls:
    """The system calls on agents. UnavailableError EOPNOTSUPP where there are none."""
    if ctx.agents is None:
        raise UnavailableError("there are no agents here")
    return ctx.agents


def as_json(value: dict[str, Any]) -> str:
    """What a model reads best of something with fields."""
    return json.dumps(value, ensure_ascii=False)


def shown(info: TaskInfo) -> dict[str, Any]:
    """A task in a reply: what there is to say of it."""
    found = {
        "task_id": info.task_id, "agent": info.worker_agent_id, "state": info.state,
        "result": info.result, "reason": info.reason, "question": info.question,
        "artifacts": list(info.artifacts.values()),
    }  # fmt: skip
    return {key: value for key, value in found.items() if value or key == "task_id"}
