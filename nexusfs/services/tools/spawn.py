"""The tool `spawn`."""

from typing import Annotated, Any

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of, as_json


@tool()
async def spawn(
    ctx: ToolContext,
    spec: Annotated[
        dict[str, Any],
        Field(
            description="What to run: agent (the name of an installed one) or instructions and "
            "model; task; tools; mode (oneshot or chat); max_turns; and so on."
        ),
    ],
) -> str:
    """Start an agent as a child of yours, and go on at once.

    Use it for an agent that you want to talk to (mode chat: send to its pid) or watch; for a piece
    of work with a result use delegate. It has at most what you may hand on, and ends with you.
    Returns its pid; /proc/<pid> shows it. Use wait for its end, and kill to end it.
    """
    spec = {"idempotency_key": ctx.idempotency_key, **spec}
    info = await agents_of(ctx).sys_proc_spawn(spec)
    return as_json({"pid": info.pid, "agent": info.agent_id, "warnings": list(info.warnings)})
