"""The tool `cancel`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of, as_json


@tool(destructive=True)
async def cancel(
    ctx: ToolContext,
    task_id: Annotated[
        int | None, Field(description="The task; absent: all your tasks that have not ended.")
    ] = None,
    reason: Annotated[str, Field(description="Why; it is in the task's status.")] = "",
) -> str:
    """End a task that you have delegated, with its worker and all that it has started.

    Use it when a result is not needed any more, or a worker goes wrong. Harmless for a task that
    has ended. Returns whether, or how many, this call has ended.
    """
    agents = agents_of(ctx)
    if task_id is None:
        return as_json(await agents.sys_task_cancel_all())
    return as_json(await agents.sys_task_cancel(task_id, reason))
