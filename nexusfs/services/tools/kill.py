"""The tool `kill`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of, as_json


@tool(destructive=True)
async def kill(
    ctx: ToolContext,
    pid: Annotated[int, Field(ge=2, description="The agent.")],
    reason: Annotated[str, Field(description="Why; it is in the agent's status.")] = "",
) -> str:
    """End an agent that you have started, and all that it has started.

    Use it for agents that you have spawned; for tasks use cancel. Returns `terminated`: false when
    it had ended before.
    """
    return as_json(await agents_of(ctx).sys_proc_kill(pid, reason))
