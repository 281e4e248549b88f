"""Tools whose calls leave a trace on the host, one line each, that survives kill -9.

NEXUSFS_TRACE names the file. A line is `<name> <mark> <ns since 1970>`, written when the call has
its effect, which is somewhere in the middle of the time that it takes.
"""

import os
import time

import trio

from nexusfs.contracts.tool import ToolContext, tool


async def _traced(name: str, mark: str, delay_s: float) -> str:
    await trio.sleep(delay_s)
    fd = os.open(os.environ["NEXUSFS_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{name} {mark} {time.time_ns()}\n".encode())
    finally:
        os.close(fd)
    await trio.sleep(delay_s)
    return f"{name} {mark}"


@tool()
async def once(ctx: ToolContext, mark: str, delay_s: float = 0.0) -> str:
    """Do something that may not be done twice."""
    return await _traced("once", mark, delay_s)


@tool(idempotent=True)
async def again(ctx: ToolContext, mark: str, delay_s: float = 0.0) -> str:
    """Do something that may be done twice."""
    return await _traced("again", mark, delay_s)


@tool(read_only=True, idempotent=True)
async def look(ctx: ToolContext, mark: str, delay_s: float = 0.0) -> str:
    """Look at something, beside others that look."""
    return await _traced("look", mark, delay_s)


TOOLS = (once, again, look)
