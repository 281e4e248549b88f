"""Calls of the built-in tools, for their tests."""

from nexusfs.contracts.tool import ToolContext
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.services.tools import BUILTIN
from tests.contract.host_files import HostFiles

TOOLS = {tool.name: tool for tool in BUILTIN}
SMALL = {"read_chars": 20, "grep_hits": 2, "grep_chars": 30, "list_entries": 3}


def small(ctx: ToolContext) -> ToolContext:
    """The same context with limits that are soon reached."""
    return ToolContext(ctx.files, ctx.cwd, ctx.call_id, ctx.search, SMALL)


async def call(name: str, ctx: ToolContext, **arguments: object) -> str:
    found = await TOOLS[name].run(ctx, **arguments)
    assert isinstance(found, str)
    return found


async def put(ctx: ToolContext, path: str, data: bytes = b"") -> None:
    """A file with its directories."""
    await ctx.files.make_dirs(path.rpartition("/")[0] or "/")
    await ctx.files.write_file(path, data)


async def link(ctx: ToolContext, path: str, target: str) -> None:
    """A symlink, which no tool makes."""
    files = ctx.files
    if isinstance(files, BoundSyscalls):
        await files.sys_symlink(target.encode(), path)
    else:
        assert isinstance(files, HostFiles)
        files._host(path).symlink_to(target)
