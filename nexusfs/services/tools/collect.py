"""The tool `collect`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import WAITS_S, agents_of, as_json, shown


@tool(idempotent=True, timeout_s=WAITS_S)
async def collect(
    ctx: ToolContext,
    task_ids: Annotated[
        list[int] | None, Field(description="Which tasks; absent: all that are not collected yet.")
    ] = None,
    count: Annotated[
        int | None, Field(ge=1, description="Return when so many are there; absent: all.")
    ] = None,
    timeout_s: Annotated[
        float | None, Field(ge=0, description="Return after so long with what is there.")
    ] = None,
) -> str:
    """Wait for tasks that you have delegated, and get their results.

    Use it when you need the results to go on. Returns as soon as all of them (or `count` of them:
    1 is any) have ended or ask you something, as JSON: `tasks` with state, result, reason and
    artifacts; `pending` are the ids of the others.
    A task in state input-required has a question: answer it with review, then collect again.
    """
    found = await agents_of(ctx).sys_task_collect(task_ids, count=count, timeout_s=timeout_s)
    return as_json({"tasks": [shown(info) for info in found.tasks], "pending": list(found.pending)})
