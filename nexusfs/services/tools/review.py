"""The tool `review`."""

from typing import Annotated, Literal

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of, as_json, shown


@tool()
async def review(
    ctx: ToolContext,
    task_id: Annotated[int, Field(description="The task.")],
    verdict: Annotated[
        Literal["approve", "revise", "reject", "retry"],
        Field(
            description="approve: go on, or take the draft as the result. revise: do what `text` "
            "says. reject: the task has failed. retry: the same task anew, once it has ended."
        ),
    ],
    text: Annotated[str, Field(description="What the worker is told; revise needs it.")] = "",
) -> str:
    """Answer a worker of yours that asks you something, or correct one that works.

    Use it when a task is input-required, or its worker is on a wrong way; to end it use cancel.
    Returns the task's new state; for retry the new task's task_id.
    """
    agents = agents_of(ctx)
    if verdict == "retry":
        return as_json(shown(await agents.sys_task_retry(task_id)))
    return as_json(shown(await agents.sys_task_review(task_id, verdict, text)))
