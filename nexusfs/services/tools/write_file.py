"""The tool `write_file`."""

import posixpath
from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import KernelError, NotFoundError
from nexusfs.contracts.tool import ToolContext, in_control_tree, tool


@tool(destructive=True, idempotent=True)
async def write_file(
    ctx: ToolContext,
    path: Annotated[str, Field(description="The file; absolute, or relative to the cwd.")],
    content: Annotated[str, Field(description="The whole new content.")],
) -> str:
    """Write a whole file: make it, or replace all that it had.

    Use it for new files and complete rewrites; to change a part use edit_file. Directories
    that are missing are made. Returns what was written. A write to a control file, such as
    /proc/spawn, is one request to the kernel.
    """
    path = ctx.path(path)
    data = content.encode("utf-8", "replace")
    before = await _size(ctx, path)
    try:
        await ctx.files.write_file(path, data)
    except NotFoundError:
        parent = posixpath.dirname(path)
        if await _size(ctx, parent) is not None:
            raise
        await ctx.files.make_dirs(parent)
        await ctx.files.write_file(path, data)
    if in_control_tree(path):
        return f"wrote {len(data):,} bytes to {path}"
    was = "a new file" if before is None else f"it had {before:,} bytes"
    return f"wrote {len(data):,} bytes to {path} ({was})"


async def _size(ctx: ToolContext, path: str) -> int | None:
    """Size in bytes; None when there is nothing, or it cannot be seen."""
    try:
        stat = await ctx.files.stat(path)
    except KernelError:
        return None
    return stat.size
