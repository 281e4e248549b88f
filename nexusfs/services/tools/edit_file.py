"""The tool `edit_file`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import IsDirectoryError, NotFoundError, ToolFailedError
from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.services.tools.missing import missing

_MAX_BYTES = 8 * 1024 * 1024
"""The file is held, searched and written whole: 20 ms for this size."""


@tool(destructive=True)
async def edit_file(
    ctx: ToolContext,
    path: Annotated[str, Field(description="The file; absolute, or relative to the cwd.")],
    old: Annotated[str, Field(description="The text to replace, exactly as the file has it.")],
    new: Annotated[str, Field(description="The text to put in its place; may be empty.")],
    replace_all: Annotated[bool, Field(description="Replace every occurrence.")] = False,
) -> str:
    """Replace a piece of text in a file.

    Use it for changes to an existing file; read the file first. `old` must be in the file
    exactly once, with its white space and line breaks: take in neighbouring lines to make it
    unique, or set replace_all. Returns the line numbers that changed. Nothing is written when
    it fails.
    """
    path = ctx.path(path)
    if not old:
        raise ToolFailedError("`old` is empty: use write_file to write a whole file")
    if old == new:
        raise ToolFailedError("`old` and `new` are the same: nothing would change")
    data = await _content(ctx, path)
    found = old.encode("utf-8", "replace")
    count = data.count(found)
    if count == 0:
        raise ToolFailedError(f"`old` is not in {path}: {_hint(data, old)}")
    lines = _lines(data, found)
    if count > 1 and not replace_all:
        raise ToolFailedError(
            f"`old` is {count} times in {path} (lines {lines}): add neighbouring lines to `old` "
            "to say which, or set replace_all"
        )
    await ctx.files.write_file(path, data.replace(found, new.encode("utf-8", "replace")))
    times = "1 occurrence" if count == 1 else f"{count} occurrences"
    return f"replaced {times} in {path} (line{'s' if count > 1 else ''} {lines})"


async def _content(ctx: ToolContext, path: str) -> bytes:
    """All bytes of an ordinary file."""
    try:
        stat = await ctx.files.stat(path)
    except NotFoundError:
        raise await missing(ctx, path) from None
    if stat.is_dir:
        raise IsDirectoryError(f"{path!r} is a directory: only files can be edited")
    if not stat.is_file:
        raise ToolFailedError(f"{path!r} is no ordinary file: only those can be edited")
    if stat.size > _MAX_BYTES:
        raise ToolFailedError(
            f"{path!r} has {stat.size:,} bytes: only files up to {_MAX_BYTES:,} can be edited"
        )
    return await ctx.files.read_file(path)


def _lines(data: bytes, found: bytes) -> str:
    """Line numbers of the first ten occurrences."""
    numbers: list[str] = []
    at, line = data.find(found), 1
    begin = 0
    while at >= 0 and len(numbers) < 10:
        line += data.count(b"\n", begin, at)
        numbers.append(str(line))
        begin, at = at, data.find(found, at + len(found))
    return ", ".join(numbers) + (", …" if at >= 0 else "")


def _hint(data: bytes, old: str) -> str:
    """Says why `old` was probably not found."""
    if b"\r\n" in data and old.replace("\n", "\r\n").encode("utf-8", "replace") in data:
        return "its lines end in \\r\\n: write \\r\\n for each line break"
    first = next((line.split() for line in old.splitlines() if line.strip()), [])
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if first and line.split() == first:
            return f"line {number} begins like it, but what follows or the white space differs"
    return "read_file shows what it has; copy the text exactly, with its white space"
