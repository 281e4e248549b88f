"""The tool `glob`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import NotFoundError
from nexusfs.contracts.tool import PRIVATE_DATA, ToolContext, tool
from nexusfs.services.tools.missing import missing
from nexusfs.services.tools.search import WalkSearch


@tool(read_only=True, idempotent=True, labels=[PRIVATE_DATA])
async def glob(
    ctx: ToolContext,
    pattern: Annotated[str, Field(min_length=1, description="For example `src/**/*.py`.")],
    path: Annotated[str, Field(description="The directory to look below.")] = ".",
) -> str:
    """Find files by name.

    Use it when a name or an ending is known; to look inside files use grep. `*` and `?` match
    within a name, `**` any directories, `[ab]` one of these, `{py,md}` either; a pattern
    without a slash matches names at any depth; one that ends in a slash finds directories.
    Returns absolute paths, sorted, one per line, at most 100; the last line, in square
    brackets, says when there were more.
    """
    path = ctx.path(path)
    try:
        await ctx.files.stat(path)
    except NotFoundError:
        raise await missing(ctx, path) from None
    limit = ctx.limit("list_entries")
    search = ctx.search or WalkSearch(ctx.files)
    found, more = await search.glob(pattern, path, limit=limit)
    if not found:
        return f"[nothing below {path} matches {pattern!r}]"
    lines = [one.replace("\n", "\\n") for one in found]
    if more:
        lines.append(f"[{len(found)} shown, there are more: give a longer pattern or path]")
    return "\n".join(lines)
