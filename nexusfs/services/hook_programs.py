"""Hooks that are programs of the host, named in /etc/hooks.json.

    {"hooks": [{"on": "pre_spawn", "command": ["/usr/local/bin/policy", "strict"], "timeout_s": 5}]}

A program gets the context as one JSON object on its standard input. It refuses a `pre_` point by a
status other than 0, which is the errno (1 is EPERM, 13 EACCES); the last line that it wrote to
standard error is the sentence. It runs as the user of the daemon, so it and the file must be root's
or that user's, and writable by nobody else: see `TrustedFile`.
"""

import json
import logging
import os
import signal
import stat as _stat
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal

import trio
from pydantic import BaseModel, ConfigDict, Field

from nexusfs.contracts.errors import AccessError, KernelError, TimeoutExpiredError, error_of
from nexusfs.contracts.hooks import HookContext
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.services.trusted_file import TrustedFile

log = logging.getLogger(__name__)

PATH = "/etc/hooks.json"
BESIDE_MAX = 16
"""Events told at once beside the kernel: a tree of agents that ends is as many processes."""


class Program(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: Literal[
        "pre_spawn", "post_spawn", "post_terminate", "pre_dispatch", "post_dispatch", "refused"
    ]
    command: tuple[str, ...] = Field(min_length=1)
    timeout_s: float = Field(5.0, gt=0, le=300)


class HookPrograms:
    """Runs the programs of /etc/hooks.json at their points, in the order of the file."""

    def __init__(
        self, calls: Syscalls, uid: int, environment: Mapping[str, str],
        start: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:  # fmt: skip
        """The file must be root's or `uid`'s; programs get `environment`.

        `start` runs an async function beside the kernel, for points inside something atomic.
        """
        self._start = start
        self._uid = uid
        self._environment = dict(environment)
        self._at_once = trio.CapacityLimiter(BESIDE_MAX)
        self._file: TrustedFile[tuple[Program, ...]] = TrustedFile(calls, uid, PATH, _parse, ())

    def tell(self, shown: Callable[[KernelError | None], None]) -> None:
        """Has `shown` called with what is wrong with the file, None: nothing, when it was read."""
        self._file.on_read = shown

    async def pre_spawn(self, context: HookContext) -> None:
        """May refuse a spawn."""
        await self._all("pre_spawn", context)

    async def pre_dispatch(self, context: HookContext) -> None:
        """May refuse a tool call."""
        await self._all("pre_dispatch", context)

    async def post_spawn(self, context: HookContext) -> None:
        """Hears of a new agent."""
        await self._all("post_spawn", context)

    async def post_dispatch(self, context: HookContext) -> None:
        """Hears of the outcome of a tool call."""
        await self._all("post_dispatch", context)

    def post_terminate(self, context: HookContext) -> None:
        """Hears of an end."""
        self._beside("post_terminate", context)

    def refused(self, context: HookContext) -> None:
        """Hears of a refusal."""
        self._beside("refused", context)

    def _beside(self, point: str, context: HookContext) -> None:
        """Starts the programs of a point, if there may be any."""
        if self._file.stale or any(program.on == point for program in self._file.known):
            self._start(partial(self._told, point, context))

    async def _told(self, point: str, context: HookContext) -> None:
        try:
            async with self._at_once:
                await self._all(point, context)
        except KernelError as exc:
            log.warning("%s: %s", point, exc)

    async def _all(self, point: str, context: HookContext) -> None:
        programs = await self._file.read()
        if self._file.fault is not None and point.startswith("pre_"):
            raise self._file.fault
        for program in programs:
            if program.on == point:
                await self._run(program, context)

    async def _run(self, program: Program, context: HookContext) -> None:
        """One program. AccessError, TimeoutExpiredError ETIMEDOUT, or the errno it ended with."""
        name = os.path.basename(program.command[0])
        _check_program(program.command[0], self._uid)
        told = json.dumps({"point": program.on, **_plain(context)}, default=str).encode()
        try:
            with trio.move_on_after(program.timeout_s) as limit:
                done = await trio.run_process(
                    list(program.command), stdin=told, capture_stdout=True, capture_stderr=True,
                    check=False, env=self._environment, cwd="/", start_new_session=True,
                    deliver_cancel=_kill_group,
                )  # fmt: skip
        except OSError as exc:  # no x bit, no such interpreter, no descriptor left
            raise AccessError(f"hook {name} cannot be started: {exc.strerror or exc}") from None
        if limit.cancelled_caught:
            raise TimeoutExpiredError(f"hook {name} took over {program.timeout_s:g} s")
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:500]
            raise error_of(done.returncode, f"hook {name}: {said or f'status {done.returncode}'}")


def _parse(body: Any) -> tuple[Program, ...]:
    if not isinstance(body, dict) or set(body) != {"hooks"}:
        raise ValueError('write {"hooks": [...]}')
    return tuple(Program.model_validate(row) for row in body["hooks"])


def _plain(context: HookContext) -> dict[str, Any]:
    """The context without the whole spec's defaults, as JSON takes it."""
    plain = {name: getattr(context, name) for name in context.__dataclass_fields__}
    spec = plain.get("spec")
    if spec is not None:
        plain["spec"] = spec.to_dict()
    return plain


def _check_program(path: str, uid: int) -> None:
    """AccessError EACCES for a program that others could have written."""
    try:
        st = os.stat(path)
    except (OSError, ValueError) as exc:
        raise AccessError(f"hook {path}: {exc}") from None
    if not _stat.S_ISREG(st.st_mode) or st.st_uid not in (0, uid) or st.st_mode & 0o022:
        raise AccessError(
            f"hook {path}: it must be a file of root's or the daemon's user, and writable by "
            "nobody else"
        )


async def _kill_group(process: trio.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
