"""The tool `wait`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import WAITS_S, agents_of, as_json


@tool(idempotent=True, timeout_s=WAITS_S)
async def wait(
    ctx: ToolContext,
    pid: Annotated[int, Field(ge=2, description="The agent.")],
    timeout_s: Annotated[
        float | None, Field(ge=0, description="Give up after so long; the agent goes on.")
    ] = None,
) -> str:
    """Wait until an agent has ended.

    Use it for agents that you have spawned; for tasks use collect. Returns its exit code (0 is
    done, below 0 a signal), the reason, and its answer.
    """
    status = await agents_of(ctx).sys_proc_wait(pid, timeout_s)
    result = (await ctx.files.read_file(f"/proc/{pid}/result")).decode("utf-8", "replace")
    return as_json(
        {"pid": pid, "exit_code": status.exit_code, "reason": status.reason, "result": result}
    )
