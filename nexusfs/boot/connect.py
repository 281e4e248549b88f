"""The Python door: the kernel in the caller's own process, async on trio or synchronous.

    async with nexusfs.connect("store") as nexus:
        info = await nexus.sys_proc_spawn(spec)

    with nexusfs.connect_sync("store") as nexus:
        info = nexus.sys_proc_spawn(spec)

Both take the store's lock: a store is mounted or connected to, not both at once.
"""

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import trio

from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.config import load_config
from nexusfs.boot.environment import config_path, key_names, sealed_environment
from nexusfs.boot.first_boot import own_credentials
from nexusfs.kernel.bound import BoundSyscalls

R = TypeVar("R")


@contextlib.asynccontextmanager
async def connect(store: Path | str) -> AsyncIterator[BoundSyscalls]:
    """Every system call on the store at `store`, as the user of this process, while the block runs.

    Raises:
        BusyError: EBUSY, the store is mounted or open elsewhere.
        InvalidError: EINVAL, the configuration is wrong.

    Live agents go on inside the block, and where they were at the next one.
    """
    path = config_path()
    env_fd = sealed_environment()
    options = BootOptions(Path(store), load_config(path), path, env_fd, tuple(key_names()))
    try:
        async with running_kernel(options) as kernel:
            yield BoundSyscalls(kernel.syscalls, own_credentials())
    finally:
        os.close(env_fd)


class SyncKernel:
    """The same calls without `await`; each may be used from any thread.

    The kernel runs in a thread of its own between `__enter__` and `__exit__`.
    """

    def __init__(self, store: Path | str) -> None:
        """Nothing runs until the object is entered."""
        self._store = store
        self._started: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="nexusfs kernel")
        self._bound: BoundSyscalls | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None

    def __enter__(self) -> "SyncKernel":
        """Starts the kernel. Raises what `connect` raises."""
        self._thread.start()
        fault = self._started.get()
        if fault is not None:
            self._thread.join()
            raise fault
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops the kernel and frees the store."""
        assert self._token is not None and self._stop is not None
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()

    def run_sync(self, call: Callable[..., Awaitable[R]], *args: Any) -> R:
        """Runs an async call of the kernel from this thread and returns what it returns."""
        assert self._token is not None
        return trio.from_thread.run(call, *args, trio_token=self._token)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A system call, or a whole-file call of BoundSyscalls, as a plain function."""
        assert self._bound is not None
        call = getattr(self._bound, name)

        def plain(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                return await call(*args, **kwargs)

            return self.run_sync(run)

        return plain

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:
            self._started.put(_first(exc))

    async def _serve(self) -> None:
        async with connect(self._store) as bound:
            self._bound = bound
            self._token = trio.lowlevel.current_trio_token()
            self._stop = trio.Event()
            self._started.put(None)
            await self._stop.wait()


def connect_sync(store: Path | str) -> SyncKernel:
    """The synchronous face of `connect`, for threads and plain scripts."""
    return SyncKernel(store)


def _first(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
