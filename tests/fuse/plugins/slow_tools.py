"""Tools that take their time, for tests of what a mount does meanwhile."""

from typing import Annotated

import trio
from pydantic import Field

from nexusfs.contracts.tool import ToolContext, tool


@tool(timeout_s=60)
async def linger(
    ctx: ToolContext,
    seconds: Annotated[float, Field(ge=0, description="How long.")],
    note: Annotated[str, Field(description="A file to write the outcome to.")],
) -> str:
    """Wait, then write `done` into a file; `cancelled` when the call is cut off."""
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await ctx.files.write_file(ctx.path(note), b"cancelled\n")
        raise
    await ctx.files.write_file(ctx.path(note), b"done\n")
    return f"waited {seconds:g} s"


@tool(timeout_s=0.2)
async def overdue(ctx: ToolContext) -> str:
    """Take longer than the tool's own limit."""
    await trio.sleep(30)
    return "never"


@tool()
async def broken(ctx: ToolContext) -> str:
    """Fail in a way that is a bug."""
    raise RuntimeError("a bug of the tool")


TOOLS = (linger, overdue, broken)
