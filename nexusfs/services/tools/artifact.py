"""The tool `artifact`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of


@tool(idempotent=True)
async def artifact(
    ctx: ToolContext,
    path: Annotated[str, Field(min_length=1, description="The file, which you have written.")],
) -> str:
    """Deliver a file as part of your task's result.

    Use it after write_file for what is more than an answer: reports, data, patches. The one who
    gave you the task is told, and finds the file in the task's artifacts.
    """
    name = await agents_of(ctx).sys_task_artifact(ctx.path(path))
    return f"delivered as {name}"
