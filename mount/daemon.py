"""The daemon's process: `python -m mount.daemon JSON`, started by `nexusfs mount`.

Its environment holds no provider key: those are in a sealed memfd whose number it hands on to
the model worker unread.
"""

import ctypes
import json
import logging
import logging.handlers
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import trio

from mount.session import MountOptions, mount_options, serve
from mount.unmount import unmount_dead
from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.collector import calm_the_collector
from nexusfs.boot.config import Config, load_config
from nexusfs.contracts.errors import KernelError

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """What `nexusfs mount` tells its daemon.

    Attributes:
        ready_fd: a pipe to write `ok` to, or the sentence that says what went wrong.
        env_fd: the sealed environment for the model worker.
    """

    mountpoint: str
    store: str
    config: str
    allow_other: bool
    auto_unmount: bool
    foreground: bool
    log_file: str
    env_fd: int
    ready_fd: int
    key_names: tuple[str, ...]


def main() -> int:
    """Runs the daemon; the exit status of the process."""
    options = DaemonOptions(**json.loads(sys.argv[1]))
    os.set_inheritable(options.env_fd, False)
    os.set_inheritable(options.ready_fd, False)
    _hide_memory()
    try:
        config = load_config(Path(options.config))
        _log_to(options, config)
        unmount_dead(Path(options.mountpoint))
        real = os.path.realpath(options.mountpoint)  # now: later it is ours to answer for
        trio.run(_run, options, config, real)
    except Exception as exc:
        cause = first_cause(exc)
        if isinstance(cause, KernelError):
            _tell(options.ready_fd, str(cause))
            log.error("%s", cause)
        else:
            _tell(options.ready_fd, f"{type(cause).__name__}: {cause}; see {options.log_file}")
            log.exception("the daemon failed")
        return 1
    return 0


def _hide_memory() -> None:
    """Keeps processes of the same user from this one's memory and descriptors (the keys' memfd).

    Source: prctl(2), PR_SET_DUMPABLE.
    """
    pr_set_dumpable = 4
    ctypes.CDLL(None).prctl(pr_set_dumpable, 0)


def first_cause(exc: BaseException) -> BaseException:
    """The first exception inside nested groups; the exception itself when it is none."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


async def _run(options: DaemonOptions, config: Config, real_mountpoint: str) -> None:
    boot = BootOptions(
        Path(options.store), config, Path(options.config), options.env_fd, tuple(options.key_names),
        _log_fd(options), real_mountpoint,
    )  # fmt: skip
    mounting = MountOptions(
        Path(options.mountpoint),
        mount_options(allow_other=options.allow_other, auto_unmount=options.auto_unmount),
        _info(options, config),
    )
    async with running_kernel(boot) as kernel:
        kernel.on_reload.append(lambda config: logging.getLogger().setLevel(config.log_level))
        calm_the_collector()
        degraded = [f"{name} is {state}" for name, state in kernel.services.items() if ":" in state]
        await serve(kernel, mounting, lambda: _tell(options.ready_fd, "\n".join(["ok", *degraded])))


def _info(options: DaemonOptions, config: Config) -> dict[str, object]:
    return {
        "store": options.store,
        "pid": os.getpid(),
        "allow_other": options.allow_other,
        "config": options.config,
        "log": options.log_file,
        "log_max_bytes": config.log_max_bytes,
        "log_backups": config.log_backups,
    }


def _log_to(options: DaemonOptions, config: Config) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if not options.foreground:
        Path(options.log_file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = logging.handlers.RotatingFileHandler(
            options.log_file, maxBytes=config.log_max_bytes, backupCount=config.log_backups
        )
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(config.log_level)


def _log_fd(options: DaemonOptions) -> int | None:
    if options.foreground:
        return None
    return os.open(options.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _tell(ready_fd: int, text: str) -> None:
    try:
        os.write(ready_fd, text.encode("utf-8", "replace"))
        os.close(ready_fd)
    except OSError:  # told before
        pass


if __name__ == "__main__":
    sys.exit(main())
