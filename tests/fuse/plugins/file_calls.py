"""A tool that makes one call on a file, for tests of what a mount shows of changes behind it."""

import errno
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.node import Change
from nexusfs.contracts.tool import ToolContext, tool


@tool()
async def act(ctx: ToolContext, top: str, op: list[Any]) -> str:
    """Make one call of tests/torture/load.py below `top`; its errno's name, or ok."""
    try:
        await _CALLS[op[0]](ctx.files, f"{top}/{op[1]}", top, *op[2:])
    except KernelError as exc:
        return errno.errorcode[exc.errno]
    return "ok"


async def _create(files: Any, path: str, top: str, mode: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    await files.sys_close((await files.sys_open(path, flags, mode)).fd)


async def _write(files: Any, path: str, top: str, offset: int, fill: int, size: int) -> None:
    opened = await files.sys_open(path, os.O_WRONLY | os.O_NOFOLLOW)
    await files.sys_write(opened.fd, random.Random(fill).randbytes(size), offset)
    await files.sys_close(opened.fd)


async def _append(files: Any, path: str, top: str, fill: int, size: int) -> None:
    opened = await files.sys_open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_APPEND)
    await files.sys_write(opened.fd, random.Random(fill).randbytes(size), 0)
    await files.sys_close(opened.fd)


async def _truncate(files: Any, path: str, top: str, size: int) -> None:
    await files.sys_setattr(path, Change(size=size))


async def _mkdir(files: Any, path: str, top: str) -> None:
    await files.sys_mkdir(path, 0o755)


async def _rmdir(files: Any, path: str, top: str) -> None:
    await files.sys_rmdir(path)


async def _unlink(files: Any, path: str, top: str) -> None:
    await files.sys_unlink(path)


async def _rename(files: Any, path: str, top: str, new: str, flags: int) -> None:
    await files.sys_rename(path, f"{top}/{new}", flags)


async def _link(files: Any, path: str, top: str, new: str) -> None:
    await files.sys_link(path, f"{top}/{new}")


async def _symlink(files: Any, path: str, top: str, target: str) -> None:
    await files.sys_symlink(target.encode(), path)


async def _chmod(files: Any, path: str, top: str, mode: int) -> None:
    await files.sys_setattr(path, Change(mode=mode))


async def _utime(files: Any, path: str, top: str, time_ns: int) -> None:
    await files.sys_setattr(path, Change(atime_ns=time_ns, mtime_ns=time_ns), follow=False)


async def _setxattr(files: Any, path: str, top: str, name: str, size: int) -> None:
    node, _ = await files.sys_lookup(path)
    await files.sys_setxattr(node, f"user.{name}".encode(), b"v" * size)


async def _removexattr(files: Any, path: str, top: str, name: str) -> None:
    node, _ = await files.sys_lookup(path)
    await files.sys_removexattr(node, f"user.{name}".encode())


_CALLS: dict[str, Callable[..., Awaitable[None]]] = {
    "create": _create, "write": _write, "append": _append, "truncate": _truncate, "mkdir": _mkdir,
    "rmdir": _rmdir, "unlink": _unlink, "rename": _rename, "link": _link, "symlink": _symlink,
    "chmod": _chmod, "utime": _utime, "setxattr": _setxattr, "removexattr": _removexattr,
}  # fmt: skip

TOOLS = (act,)
