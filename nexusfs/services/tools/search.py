"""The Search seam over plain files: grep and glob by walking.

Never follows a symlink, never enters /proc, /dispatch or /sys unless told to start inside
(and there leaves out the files that block), skips what is binary or may not be read.
Patterns run in RE2, in time linear in the text.

Concurrency: no shared state; one call is one task. It suspends every few entries and every
32 KiB of text, so a big tree stalls nobody. A large pattern, for which RE2 may need a
second per MiB, or a very long line goes to a thread: RE2 lets go of the interpreter meanwhile.
Cancelling ends it at once; a thread finishes its block, within seconds, for nobody.
"""

import posixpath
import stat as _stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import trio

from nexusfs.contracts.errors import InvalidError, KernelError
from nexusfs.contracts.node import DirEntry
from nexusfs.contracts.tool import Hit, ToolFiles, in_control_tree
from nexusfs.services.tools.pattern import glob_pattern, line_pattern

BLOCK_BYTES = 32 * 1024
"""Searched between two suspensions."""
MAX_LINE_BYTES = 128 * 1024
"""A longer line is searched in pieces of this size; what lies across two is not found."""
INLINE_PROGRAM = 50
"""Instructions of a pattern up to which 32 KiB take at most 20 ms, measured on hostile ones."""
ENTRIES_PER_TURN = 16
"""Names looked at between two suspensions."""

_threads = trio.CapacityLimiter(2)
"""Threads for large patterns: enough for two, so that they do not take all cores."""


class WalkSearch:
    """Searches `files`, with whatever rights they carry."""

    def __init__(self, files: ToolFiles, *, text_chars: int = 200) -> None:
        """Hits of lines over `text_chars` show the part around the match."""
        self._files = files
        self._text_chars = text_chars

    async def grep(
        self, pattern: str, path: str, *, include: str | None, limit: int
    ) -> tuple[list[Hit], bool]:
        """Lines at or below `path` that match a RE2 pattern, at most `limit`, and whether more do.

        Raises:
            InvalidError: EINVAL, a pattern that RE2 does not know.
            KernelError: `path` itself cannot be read.
        """
        lines = line_pattern(pattern)
        names = glob_pattern(include) if include else None
        hits: list[Hit] = []
        root = posixpath.normpath(path)
        async with aclosing(self._walk(root)) as found:
            async for one, entry in found:
                if not _stat.S_ISREG(entry.kind):
                    continue
                if names is not None and not names.fullmatch(_below(root, one)):
                    continue
                hits += await self._grep_file(lines, one, limit + 1 - len(hits))
                if len(hits) > limit:
                    return hits[:limit], True
        return hits, False

    async def glob(self, pattern: str, path: str, *, limit: int) -> tuple[list[str], bool]:
        """Paths below `path` that match, sorted, at most `limit`, and whether there were more.

        A pattern without a slash matches names at any depth; one that ends in a slash matches
        directories, any other pattern everything else. InvalidError EINVAL for a broken one.
        """
        root = posixpath.normpath(path)
        directories = pattern.endswith("/")
        names = glob_pattern(_relative(pattern.rstrip("/"), root))
        paths: list[str] = []
        async with aclosing(self._walk(root)) as found:
            async for one, entry in found:
                if _stat.S_ISDIR(entry.kind) == directories and names.fullmatch(_below(root, one)):
                    paths.append(f"{one}/" if directories else one)
                if len(paths) > limit:
                    return paths[:limit], True
        return paths, False

    async def _walk(self, root: str) -> AsyncGenerator[tuple[str, DirEntry], None]:
        """(path, entry) of all below `root`, in the order of their paths; of a file, itself."""
        stat = await self._files.stat(root)
        if not stat.is_dir:
            yield root, DirEntry(b"", stat.ino, _stat.S_IFMT(stat.mode))
            return
        todo = await self._entries(root, root)
        seen = 0
        while todo:
            path, entry = todo.pop()
            seen += 1
            if seen % ENTRIES_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            yield path, entry
            if _stat.S_ISDIR(entry.kind):
                todo += await self._entries(path, root)

    async def _entries(self, path: str, root: str) -> list[tuple[str, DirEntry]]:
        """What to visit in a directory, last first; nothing when it may not be read."""
        try:
            entries = await self._files.list_dir(path)
        except KernelError:
            if path == root:
                raise
            return []
        found = [
            (f"{path.rstrip('/')}/{entry.name.decode('utf-8', 'replace')}", entry)
            for entry in entries
        ]
        found = [(one, entry) for one, entry in found if _may_visit(one, root)]
        return sorted(found, key=_path_order, reverse=True)

    async def _grep_file(self, lines: Any, path: str, limit: int) -> list[Hit]:
        """At most `limit` hits of one file; none when it is binary or may not be read."""
        hits: list[Hit] = []
        number = 1
        async with aclosing(self._blocks(path)) as blocks:
            async for block in blocks:
                for at, text in await self._matches(lines, block, limit - len(hits)):
                    hits.append(Hit(path, number + at, text))
                if len(hits) >= limit:
                    break
                number += block.count(b"\n")
        return hits

    async def _blocks(self, path: str) -> AsyncGenerator[bytes, None]:
        """The text of a file in blocks of whole lines."""
        offset, rest = 0, b""
        while True:
            try:
                data = await self._files.read_file(path, offset=offset, size=BLOCK_BYTES)
            except KernelError:
                return
            if b"\0" in data:
                return
            offset += len(data)
            last = len(data) < BLOCK_BYTES
            rest += data
            end = rest.rfind(b"\n") + 1
            if last or (not end and len(rest) >= MAX_LINE_BYTES):
                end = len(rest)
            if end:
                yield rest[:end]
                rest = rest[end:]
            if last:
                return

    async def _matches(self, lines: Any, block: bytes, limit: int) -> list[tuple[int, str]]:
        """(line within the block from 0, its text) of the lines that match."""
        if lines.programsize <= INLINE_PROGRAM and len(block) <= 2 * BLOCK_BYTES:
            await trio.lowlevel.checkpoint()
            return _match_lines(lines, block, limit, self._text_chars)
        return await trio.to_thread.run_sync(
            _match_lines, lines, block, limit, self._text_chars,
            abandon_on_cancel=True, limiter=_threads,
        )  # fmt: skip


def _match_lines(lines: Any, block: bytes, limit: int, chars: int) -> list[tuple[int, str]]:
    if b"\r\n" in block:  # so that $ matches before it
        block = block.replace(b"\r\n", b"\n")
    found: list[tuple[int, str]] = []
    number = counted = begin = 0
    while len(found) < limit and begin < len(block):
        match = lines.search(block, begin)
        if match is None or (match.start() == len(block) and block.endswith(b"\n")):
            break
        start = block.rfind(b"\n", 0, match.start()) + 1
        end = block.find(b"\n", match.start())
        end = len(block) if end < 0 else end
        number += block.count(b"\n", counted, start)
        found.append((number, _text(block[start:end], match.start() - start, chars)))
        counted, begin = start, end + 1
    return found


def _text(line: bytes, at: int, chars: int) -> str:
    """The line, or when it is long the part around `at`."""
    text = line.decode("utf-8", "replace")
    if len(text) <= chars:
        return text
    at = len(line[:at].decode("utf-8", "replace"))
    begin = max(min(at - chars // 4, len(text) - chars), 0)
    return ("…" if begin else "") + text[begin : begin + chars]


def _may_visit(path: str, root: str) -> bool:
    """False for a control tree seen from outside, and for the files in one that block."""
    if not in_control_tree(path):
        return True
    name = posixpath.basename(path)
    return in_control_tree(root) and name != "wait" and not name.endswith("_pipe")


def _path_order(found: tuple[str, DirEntry]) -> str:
    """Sorts entries so that a walk, directory contents after each name, is in order of path."""
    path, entry = found
    return f"{path}/" if _stat.S_ISDIR(entry.kind) else path


def _below(root: str, path: str) -> str:
    """`path` from `root` on; its name when it is the root itself."""
    return posixpath.basename(path) if path == root else path[len(root.rstrip("/")) + 1 :]


def _relative(pattern: str, root: str) -> str:
    """An absolute pattern as one below `root`."""
    if not pattern.startswith("/"):
        return pattern
    below = f"{root.rstrip('/')}/"
    if not pattern.startswith(below):
        raise InvalidError(f"the pattern {pattern!r} is not below {root!r}: write it relative")
    return f"./{pattern[len(below) :]}"
