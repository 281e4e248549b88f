"""The calls on a kernel in a process of its own, so that it can be stopped at any moment.

`python -m tests.model.kernel` is that process: pickled (name of a method, arguments) on stdin,
pickled ("ok", result) or ("raised", traceback) on stdout.
"""

import errno
import os
import pickle
import stat
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.node import Change, Stat
from nexusfs.kernel.syscalls import Syscalls
from tests.kernel_fixture import booted
from tests.model.ops import BASE, CONTENT_BYTES, ME, USERS, Entry, Op, Result, Tree, data

R = TypeVar("R")


class Kernel:
    """A kernel over the store in `store`, until `close`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self.handles: dict[int, int] = {}
        self._started: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kernel of the model")
        self._thread.start()
        fault = self._started.get()
        if fault is not None:
            raise fault

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:
            self._started.put(exc)

    async def _serve(self) -> None:
        async with booted(self._store) as kernel:
            self._calls: Syscalls = kernel.syscalls
            self._token = trio.lowlevel.current_trio_token()
            self._stop = trio.Event()
            self._started.put(None)
            await self._stop.wait()

    def close(self) -> None:
        """Ends the kernel as an unmount does."""
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()

    def _ask(self, call: Callable[..., Awaitable[R]], *args: Any) -> R:
        return trio.from_thread.run(call, *args, trio_token=self._token)

    def make_base(self) -> None:
        """Makes BASE, everybody's."""
        self._ask(self._make_base)

    async def _make_base(self) -> None:
        names = BASE.split("/")
        for depth in range(len(names) + 1):
            path = "/" + "/".join(names[:depth])
            mode = 0o777 if depth == len(names) else 0o755
            if depth:
                await self._calls.sys_mkdir(ME, path, mode)
            await self._calls.sys_setattr(ME, path, Change(mode=mode, uid=ME.uid, gid=ME.gid))

    def do(self, op: Op) -> Result:
        """Makes the call."""
        return self._ask(self._do, op)

    async def _do(self, op: Op) -> Result:
        try:
            return "ok", await getattr(self, f"_{op.call}")(USERS[op.who], *op.args)
        except KernelError as exc:
            assert self._calls.gate.crashes == 0, exc
            return "error", errno.errorcode[exc.errno]

    def tree(self) -> Tree:
        """All that is there."""
        found: Tree = {}
        self._ask(self._scan, ".", found)
        return found

    def at(self, path: str) -> str:
        return f"/{BASE}/{path}"

    # -- the calls

    async def _open(self, cred: Credentials, path: str, flags: int, mode: int, handle: int) -> None:
        opened = await self._calls.sys_open(cred, self.at(path), flags, mode)
        self.handles[handle] = opened.fd

    async def _pwrite(self, _: Credentials, handle: int, offset: int, size: int, fill: int) -> int:
        return await self._calls.sys_write(self.handles[handle], data(fill, size), offset)

    async def _append(self, cred: Credentials, handle: int, size: int, fill: int) -> int:
        end = (await self._calls.descriptors.get(self.handles[handle]).node.stat()).size
        return await self._pwrite(cred, handle, end, size, fill)

    async def _pread(self, _: Credentials, handle: int, offset: int, size: int) -> bytes:
        return await self._calls.sys_read(self.handles[handle], size, offset)

    async def _ftruncate(self, cred: Credentials, handle: int, size: int) -> None:
        await self._calls.sys_fsetattr(cred, self.handles[handle], Change(size=size))

    async def _fchmod(self, cred: Credentials, handle: int, mode: int) -> None:
        await self._calls.sys_fsetattr(cred, self.handles[handle], Change(mode=mode))

    async def _fstat(self, _: Credentials, handle: int) -> Any:
        return shown(await self._calls.descriptors.get(self.handles[handle]).node.stat())

    async def _fsync(self, _: Credentials, handle: int, datasync: bool) -> None:
        await self._calls.sys_fsync(self.handles[handle], datasync=datasync)

    async def _close(self, _: Credentials, handle: int) -> None:
        await self._calls.sys_close(self.handles.pop(handle))

    async def _mkdir(self, cred: Credentials, path: str, mode: int) -> None:
        await self._calls.sys_mkdir(cred, self.at(path), mode)

    async def _mknod(self, cred: Credentials, path: str, mode: int, kind: int) -> None:
        await self._calls.sys_mknod(cred, self.at(path), kind | mode, os.makedev(1, 3))

    async def _symlink(self, cred: Credentials, path: str, target: str) -> None:
        await self._calls.sys_symlink(cred, target.encode(), self.at(path))

    async def _link(self, cred: Credentials, old: str, new: str) -> None:
        await self._calls.sys_link(cred, self.at(old), self.at(new))

    async def _unlink(self, cred: Credentials, path: str) -> None:
        await self._calls.sys_unlink(cred, self.at(path))

    async def _rmdir(self, cred: Credentials, path: str) -> None:
        await self._calls.sys_rmdir(cred, self.at(path))

    async def _rename(self, cred: Credentials, old: str, new: str, flags: int) -> None:
        await self._calls.sys_rename(cred, self.at(old), self.at(new), flags)

    async def _change(
        self, cred: Credentials, path: str, change: Change, *, follow: bool = True
    ) -> None:
        await self._calls.sys_setattr(cred, self.at(path), change, follow=follow)

    async def _chmod(self, cred: Credentials, path: str, mode: int) -> None:
        await self._change(cred, path, Change(mode=mode))

    async def _chown(
        self, cred: Credentials, path: str, uid: int | None, gid: int | None, follow: bool
    ) -> None:
        await self._change(cred, path, Change(uid=uid, gid=gid), follow=follow)

    async def _truncate(self, cred: Credentials, path: str, size: int) -> None:
        await self._change(cred, path, Change(size=size))

    async def _utime(
        self, cred: Credentials, path: str, times: tuple[int, int] | None, follow: bool
    ) -> None:
        change = Change(touch=True)
        if times is not None:
            change = Change(atime_ns=times[0], mtime_ns=times[1])
        await self._change(cred, path, change, follow=follow)

    async def _stat(self, cred: Credentials, path: str, follow: bool) -> Any:
        return shown(await self._calls.sys_stat(cred, self.at(path), follow=follow))

    async def _access(self, cred: Credentials, path: str, mask: int) -> bool:
        return await self._calls.sys_access(cred, self.at(path), mask)

    async def _listdir(self, cred: Credentials, path: str) -> list[tuple[str, int]]:
        entries = await self._calls.sys_readdir(cred, self.at(path))
        plain = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
        return sorted((e.name.decode(), e.kind if e.kind in plain else 0) for e in entries)

    async def _readlink(self, cred: Credentials, path: str) -> str:
        return (await self._calls.sys_readlink(cred, self.at(path))).decode()

    async def _setxattr(self, cred: Credentials, path: str, name: str, size: int) -> None:
        await self._calls.sys_setxattr(cred, self.at(path), name.encode(), b"v" * size)

    async def _getxattr(self, cred: Credentials, path: str, name: str) -> bytes:
        return await self._calls.sys_getxattr(cred, self.at(path), name.encode())

    async def _listxattr(self, cred: Credentials, path: str) -> list[str]:
        return sorted(n.decode() for n in await self._calls.sys_listxattr(cred, self.at(path)))

    async def _removexattr(self, cred: Credentials, path: str, name: str) -> None:
        await self._calls.sys_removexattr(cred, self.at(path), name.encode())

    async def _scan(self, path: str, found: Tree) -> None:
        st = await self._calls.sys_stat(ME, self.at(path), follow=False)
        inside = await self._content(path, st.size) if st.is_file else None
        times = (st.atime_ns, st.mtime_ns, st.ctime_ns)
        found[path] = Entry(st.ino, (*shown(st), inside), times)
        if st.is_dir:
            entries = await self._calls.sys_readdir(ME, self.at(path))
            for name in sorted(entry.name.decode() for entry in entries):
                await self._scan(f"{path}/{name}", found)

    async def _content(self, path: str, size: int) -> bytes:
        opened = await self._calls.sys_open(ME, self.at(path), os.O_RDONLY | os.O_NOATIME)
        try:
            tail = max(CONTENT_BYTES, size - CONTENT_BYTES)
            head = await self._calls.sys_read(opened.fd, CONTENT_BYTES, 0)
            return head + await self._calls.sys_read(opened.fd, CONTENT_BYTES, tail)
        finally:
            await self._calls.sys_close(opened.fd)


def shown(st: Stat) -> tuple[Any, ...]:
    """As `host.shown`."""
    rdev = st.rdev if stat.S_ISCHR(st.mode) or stat.S_ISBLK(st.mode) else 0
    return (oct(st.mode), st.uid, st.gid, st.nlink, 0 if st.is_dir else st.size, rdev)


class _Server:
    """What the process does for the one who started it."""

    def __init__(self) -> None:
        self._kernel: Kernel | None = None

    def boot(self, store: Path) -> None:
        """Starts a kernel; the one before must have been closed."""
        self._kernel = Kernel(store)

    def call(self, method: str, *args: Any) -> Any:
        """Calls a method of the kernel."""
        return getattr(self._kernel, method)(*args)


def main() -> None:
    """Serves requests until stdin ends."""
    server = _Server()
    while True:
        try:
            name, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            answer = "ok", getattr(server, name)(*args)
        except BaseException:
            answer = "raised", traceback.format_exc()
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    os._exit(0)  # a kernel that still runs is left where it is


if __name__ == "__main__":
    main()
