"""The tool `send`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of


@tool()
async def send(
    ctx: ToolContext,
    pid: Annotated[int, Field(ge=1, description="An agent of yours, or who gave you your task.")],
    text: Annotated[str, Field(min_length=1, description="The message.")],
) -> str:
    """Send a message to an agent that you have started, or to the one who gave you your task.

    It reads the message at its next turn; this does not wait for an answer. Use it for progress
    that cannot wait for your result, or to tell a worker more.
    """
    await agents_of(ctx).sys_proc_send(pid, text)
    return "sent"
