"""The tool `delegate`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.agents import agents_of, as_json


@tool()
async def delegate(
    ctx: ToolContext,
    message: Annotated[str, Field(min_length=1, description="What the worker is to do.")],
    worker: Annotated[
        str | dict[str, Any],
        Field(
            description="The name of an installed agent (list_dir /bin shows them), or a spec: "
            "agent, tools, max_turns, budget_tokens, model, instructions, ..."
        ),
    ] = "",
    after: Annotated[
        list[int],
        Field(description="Tasks to wait for first; their results are put before the message."),
    ] = [],  # noqa: B006  pydantic copies it
    delivery: Annotated[
        Literal["immediate", "deferred", "on_demand"] | None,
        Field(
            description="immediate: its news are in your next prompt. deferred: together at your "
            "next turn. on_demand: nothing until you collect."
        ),
    ] = None,
    on_failed: Annotated[
        Literal["reject", "run"] | None,
        Field(description="What becomes of it when one of `after` does not complete."),
    ] = None,
) -> str:
    """Hand a task to a worker of your own, and go on at once.

    Use it for work that can be done beside yours, or with fewer rights than yours; the worker has
    at most what you may hand on. It sees nothing but the message, so put everything it needs in
    there. Returns task_id and worker_pid. Use collect to wait for results, cancel to end it,
    review when it asks you something, send to tell it more.
    """
    request: dict[str, Any] = {"message": message, "idempotency_key": ctx.idempotency_key}
    optional = {"worker": worker, "after": after, "delivery": delivery, "on_failed": on_failed}
    request |= {key: value for key, value in optional.items() if value}
    info = await agents_of(ctx).sys_task_delegate(request)
    return as_json({
        "task_id": info.task_id,
        "worker_pid": info.worker_pid,
        "worker_agent_id": info.worker_agent_id,
        "delivery_policy": info.delivery_policy,
    })  # fmt: skip
