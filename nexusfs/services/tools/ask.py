"""The tool `ask`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import WAITS_S, agents_of


@tool(idempotent=True, timeout_s=WAITS_S)
async def ask(
    ctx: ToolContext,
    question: Annotated[str, Field(min_length=1, description="What you need to know.")],
    draft: Annotated[
        str, Field(description="A result to be reviewed: if it is approved, your task is done.")
    ] = "",
) -> str:
    """Ask the one who gave you your task, and wait for the answer.

    Use it when you cannot decide something yourself, or to have a draft reviewed. Returns
    `approve`, or `revise: ` and what to do otherwise. A rejection ends you.
    """
    return await agents_of(ctx).sys_task_ask(ctx.call_id, question, draft)
