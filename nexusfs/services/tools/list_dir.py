"""The tool `list_dir`."""

import stat as _stat
from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import NotDirectoryError, NotFoundError
from nexusfs.contracts.node import DirEntry, Stat
from nexusfs.contracts.tool import PRIVATE_DATA, ToolContext, tool
from nexusfs.services.tools.missing import missing, shown

_MARKS = {_stat.S_IFDIR: "/", _stat.S_IFLNK: "@"}


@tool(read_only=True, idempotent=True, labels=[PRIVATE_DATA])
async def list_dir(
    ctx: ToolContext,
    path: Annotated[str, Field(description="The directory; relative to the cwd.")] = ".",
    offset: Annotated[int, Field(ge=1, description="First entry to return, from 1.")] = 1,
) -> str:
    """List a directory.

    Use it to see what is there; to find files below it by name use glob. Returns one name per
    line, sorted: `name/` is a directory, `name@` a symlink, anything else has its size in
    bytes after a tab. A long listing is cut at 100 entries: the last line, in square brackets,
    then says how to get the rest.
    """
    path = ctx.path(path)
    try:
        total, page = await ctx.files.list_page(path, offset - 1, ctx.limit("list_entries"))
    except NotFoundError:
        raise await missing(ctx, path) from None
    except NotDirectoryError:
        raise NotDirectoryError(f"{path!r} is not a directory: use read_file") from None
    if not total:
        return "[the directory is empty]"
    lines = [_line(entry, st) for entry, st in page]
    end = offset - 1 + len(page)
    if end < total or not page:
        rest = f"continue with offset={end + 1}" if page else "use a smaller offset"
        lines.append(f"[{len(page)} of {total:,} entries; {rest}]")
    return "\n".join(lines)


def _line(entry: DirEntry, st: Stat | None) -> str:
    """One entry, as the docstring of the tool says."""
    name = shown(entry.name)
    mark = _MARKS.get(entry.kind)
    if mark is not None:
        return f"{name}{mark}"
    return name if st is None else f"{name}\t{st.size}"
