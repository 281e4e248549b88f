"""The tool `read_file`."""

from typing import Annotated

from pydantic import Field

from nexusfs.contracts.errors import IsDirectoryError, NotFoundError, ToolFailedError
from nexusfs.contracts.tool import PRIVATE_DATA, ToolContext, tool
from nexusfs.services.tools.missing import missing

_BLOCK_BYTES = 256 * 1024
"""Read at a time; a status-like file, which renders anew at each open, fits in one."""


@tool(read_only=True, idempotent=True, labels=[PRIVATE_DATA])
async def read_file(
    ctx: ToolContext,
    path: Annotated[str, Field(description="The file; absolute, or relative to the cwd.")],
    offset: Annotated[int, Field(ge=1, description="First line to return, from 1.")] = 1,
    limit: Annotated[int, Field(ge=0, description="Lines to return; 0: all that fit.")] = 0,
    column: Annotated[int, Field(ge=1, description="First character of that line, from 1.")] = 1,
) -> str:
    """Read a text file.

    Use it to look at a file before editing or quoting it. Returns the text as it is, without
    line numbers. A long file is cut at 50,000 characters: the last line, in square brackets,
    then says which lines are shown and which offset continues. Fails for directories (use
    list_dir) and binary files. To find something in many files use grep.
    """
    path = ctx.path(path)
    try:
        if (await ctx.files.stat(path)).is_dir:
            raise IsDirectoryError(f"{path!r} is a directory: use list_dir")
        reader = _Reader(ctx, path)
        await reader.skip(offset - 1)
        text, cut = await reader.take(limit, column - 1, ctx.limit("read_chars"))
    except NotFoundError:
        raise await missing(ctx, path) from None
    if not text and offset > 1 and not cut:
        raise ToolFailedError(f"{path!r} has only {reader.lines} lines: use a smaller offset")
    return _reply(text, cut, offset, column)


def _reply(text: str, cut: bool, offset: int, column: int) -> str:
    """The text, and what was cut."""
    if not cut:
        return text
    if text.endswith("\n"):
        end = offset + text.count("\n")
        return f"{text}[lines {offset} to {end - 1}; continue with offset={end}]"
    at = column + len(text)
    return f"{text}\n[cut inside line {offset}; continue with offset={offset}, column={at}]"


class _Reader:
    """Reads a file forward, block by block, as text: UTF-8 with replacement."""

    def __init__(self, ctx: ToolContext, path: str) -> None:
        self._ctx, self._path = ctx, path
        self._at = 0
        self._data = b""
        self._ended = False
        self._breaks = 0
        self._last = b"\n"

    @property
    def lines(self) -> int:
        """Lines passed over so far, the last with or without its break."""
        return self._breaks + (self._last != b"\n")

    async def skip(self, lines: int) -> None:
        """Passes over that many lines, or to the end."""
        while self._breaks < lines and await self._more():
            breaks = self._data.count(b"\n")
            end = len(self._data)
            if self._breaks + breaks >= lines:
                end = 0
                for _ in range(lines - self._breaks):
                    end = self._data.index(b"\n", end) + 1
            self._breaks = min(self._breaks + breaks, lines)
            self._last = self._data[end - 1 : end]
            self._data = self._data[end:]

    async def take(self, limit: int, column: int, chars: int) -> tuple[str, bool]:
        """(at most `limit` lines and `chars` characters from here, whether there is more)."""
        wanted_bytes = (column + chars + 1) * 4
        blocks: list[bytes] = []
        size = breaks = 0
        while size < wanted_bytes and not (limit and breaks >= limit) and await self._more():
            blocks.append(self._data)
            size += len(self._data)
            breaks += self._data.count(b"\n")
            self._data = b""
        text = b"".join(blocks).decode("utf-8", "replace")
        return _cut(text, limit, column, chars, ended=not await self._more())

    async def _more(self) -> bool:
        """True when there is data, reading a block if need be."""
        if not self._data and not self._ended:
            self._data = await self._ctx.files.read_file(
                self._path, offset=self._at, size=_BLOCK_BYTES
            )
            if self._at == 0 and b"\0" in self._data[:8192]:
                size = (await self._ctx.files.stat(self._path)).size
                raise ToolFailedError(
                    f"{self._path!r} is a binary file of {size:,} bytes: only text can be read"
                )
            self._at += len(self._data)
            self._ended = len(self._data) < _BLOCK_BYTES
        return bool(self._data)


def _cut(text: str, limit: int, column: int, chars: int, *, ended: bool) -> tuple[str, bool]:
    """`text` from `column` on, cut to `limit` lines and, at a line's end if any, to `chars`."""
    if limit:
        lines = text.split("\n", limit)
        if len(lines) > limit:
            rest = lines.pop()
            text, ended = "\n".join(lines) + "\n", ended and not rest
    text = text[column:]
    if len(text) <= chars:
        return text, not ended
    end = text.rfind("\n", 0, chars) + 1
    return text[: end or chars], True
