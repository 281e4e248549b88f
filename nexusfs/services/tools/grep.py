"""The tool `grep`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import NotFoundError, ToolFailedError
from nexusfs.contracts.tool import PRIVATE_DATA, ToolContext, tool
from nexusfs.services.tools.missing import missing


@tool(read_only=True, idempotent=True, labels=[PRIVATE_DATA])
async def grep(
    ctx: ToolContext,
    pattern: Annotated[str, Field(min_length=1, description="A regular expression (RE2).")],
    path: Annotated[str, Field(description="The file, or the directory to look below.")] = ".",
    include: Annotated[str, Field(description="Only these files, such as `*.py`.")] = "",
    ignore_case: Annotated[bool, Field(description="Capitals match small letters.")] = False,
) -> str:
    """Find lines of text files by a regular expression.

    Use it to find where something is said or defined; to find files by name use glob. The
    pattern is matched within each line, in RE2's syntax: like Perl's, without lookahead and
    backreferences. Returns `path:line: text` for each hit, at most 50, each text cut at 200
    characters; the last line, in square brackets, says when there were more. Binary files,
    symlinks, and /proc, /dispatch and /sys (unless path is inside) are left out.
    """
    if ctx.search is None:
        raise ToolFailedError("grep needs the search service, which is off here: use read_file")
    path = ctx.path(path)
    try:
        await ctx.files.stat(path)
    except NotFoundError:
        raise await missing(ctx, path) from None
    wanted = f"(?i){pattern}" if ignore_case else pattern
    limit, chars = ctx.limit("grep_hits"), ctx.limit("grep_chars")
    hits, more = await ctx.search.grep(wanted, path, include=include or None, limit=limit)
    if not hits:
        return f"[no line below {path} matches]"
    lines = [f"{hit.path}:{hit.line}: {_cut(hit.text, chars)}" for hit in hits]
    if more:
        lines.append(
            f"[{len(hits)} hits shown, there are more: give a longer pattern, path or include]"
        )
    return "\n".join(lines)


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}…"
