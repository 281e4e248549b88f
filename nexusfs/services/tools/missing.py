"""Paths that are not there: an error that names what is near."""

import difflib
import posixpath

from nexusfs.contracts.errors import KernelError, NotFoundError
from nexusfs.contracts.tool import ToolContext
from nexusfs.contracts.words import path_from_the_root

_MAX_NAMES = 1000
"""Names compared in one directory: 20 ms. More make no better hint."""


async def missing(ctx: ToolContext, path: str) -> NotFoundError:
    """The error for `path`, which is absent: names near it, or the last directory that exists."""
    rooted = path_from_the_root(path, ctx.mountpoints)
    if rooted is not None:
        return NotFoundError(
            f"no such file or directory: {path!r}: paths start at the mount point, write {rooted!r}"
        )
    above, name = posixpath.split(path)
    while True:
        names = await _names(ctx, above)
        if names is not None or above in ("/", ""):
            break
        above, name = posixpath.split(above)
    if posixpath.join(above, name) != path:
        there = f"the directory {posixpath.join(above, name)!r} does not exist either"
    else:
        there = f"list_dir shows what is in {above!r}"
    near = difflib.get_close_matches(name[:255], names or [], n=3, cutoff=0.6)
    if near:
        there = "did you mean " + " or ".join(repr(posixpath.join(above, one)) for one in near)
    return NotFoundError(f"no such file or directory: {path!r}: {there}")


def shown(name: bytes) -> str:
    """A name as a reply shows it: one line, UTF-8 with replacement."""
    return name.decode("utf-8", "replace").replace("\n", "\\n")


async def _names(ctx: ToolContext, directory: str) -> list[str] | None:
    """At most 1,000 names of a directory; None when it cannot be listed."""
    try:
        entries = await ctx.files.list_dir(directory)
    except KernelError:
        return None
    return [shown(entry.name) for entry in entries[:_MAX_NAMES]]
