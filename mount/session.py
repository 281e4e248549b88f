"""One mount from its beginning to its end."""

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyfuse3
import trio
import trio.lowlevel

from mount import loop
from mount.invalidate import Invalidator
from mount.operations import Operations
from nexusfs.boot.config import load_config
from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.errors import InvalidError, UnavailableError

log = logging.getLogger(__name__)

MAX_TASKS = 1_000_000
"""Requests that pyfuse3 serves at once. With its default of 99, 99 blocked readers hang all."""

MOUNT_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Where and how to mount; `info` is what sys/mounts shows beside the mount point."""

    mountpoint: Path
    fuse: set[str]
    info: dict[str, Any]


def mount_options(*, allow_other: bool, auto_unmount: bool) -> set[str]:
    """The options of the FUSE mount.

    default_permissions: Linux checks the permission bits, with all groups, before it asks.
    auto_unmount is off unless asked for: with it, a killed daemon leaves a directory that looks
    empty; without it callers get ENOTCONN, and the next mount or umount cleans up.
    """
    options = {"fsname=nexusfs", "subtype=nexusfs", "default_permissions"}
    if allow_other:
        options.add("allow_other")
    if auto_unmount:
        options.add("auto_unmount")
    return options


async def serve(kernel: Kernel, options: MountOptions, ready: Callable[[], None]) -> None:
    """Mounts, calls `ready`, and serves until the mount goes or SIGTERM or SIGINT arrives.

    Raises:
        UnavailableError: EOPNOTSUPP, the mount was refused; says what may be missing.
    """
    root = kernel.backing.root
    operations = Operations(kernel.syscalls, root, kernel.agent_of)
    try:
        pyfuse3.init(operations, str(options.mountpoint), options.fuse)
    except RuntimeError as exc:
        raise UnavailableError(
            f"cannot mount at {options.mountpoint}: {exc}: the directory must be yours, and "
            "--allow-other needs user_allow_other in /etc/fuse.conf unless you are root; the log "
            "may say more, and try nexusfs doctor"
        ) from exc
    try:
        await _serve(kernel, operations, options, ready)
    finally:
        pyfuse3.close(unmount=True)


async def _serve(
    kernel: Kernel, operations: Operations, options: MountOptions, ready: Callable[[], None]
) -> None:
    kernel.mounts.append({"mountpoint": str(options.mountpoint), **options.info})
    kernel.gauges["blocked_calls"] = lambda: len(operations.blocked)
    kernel.gauges["known_inodes"] = lambda: len(operations.inodes)
    invalidator = Invalidator(operations.inodes)
    invalidator.start()
    kernel.watch.listen(invalidator.changed, invalidator.settled, door="fuse")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_handle_signals, kernel, operations)
            nursery.start_soon(operations.blocked.watch)
            nursery.start_soon(_watch_mount, kernel, operations)
            nursery.start_soon(_when_serving, ready)
            loop.install()
            await pyfuse3.main(min_tasks=4, max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        invalidator.stop()


async def _when_serving(ready: Callable[[], None]) -> None:
    await (
        trio.lowlevel.checkpoint()
    )  # one round of the loop: the first request task has begun to wait
    ready()


async def _handle_signals(
    kernel: Kernel, operations: Operations, *, task_status: trio.TaskStatus[None]
) -> None:
    """SIGHUP reloads the configuration; SIGTERM and SIGINT end the mount, a second one at once."""
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            stopping = False
            async for number in signals:
                if number == signal.SIGHUP:
                    reload(kernel)
                    continue
                log.info("%s: unmounting", signal.Signals(number).name)
                if stopping:
                    kernel.shut()  # the steps under way are cut, and `_stop` goes on
                stopping = True
                nursery.start_soon(_stop, kernel, operations)


async def _watch_mount(kernel: Kernel, operations: Operations) -> None:
    """Stops when the mount point is gone and sandboxes hold the mount: Linux does not tell then."""
    while True:
        await trio.sleep(MOUNT_LOOK_S)
        if kernel.held_by_sandboxes_alone():
            log.info("unmounted while programs run")
            await _stop(kernel, operations)


async def _stop(kernel: Kernel, operations: Operations) -> None:
    """Lets steps under way settle, frees blocked readers with ENOTCONN, and ends the mount."""
    await kernel.settle()
    kernel.shut()
    operations.blocked.cancel_all()
    pyfuse3.terminate()


def reload(kernel: Kernel) -> None:
    """Reads the configuration again; a bad one is logged and the old one stays."""
    try:
        kernel.reload(load_config(kernel.config_path))
    except InvalidError as exc:
        log.error("the configuration was not reloaded: %s", exc)
    except Exception:
        log.exception("the configuration was not reloaded")
