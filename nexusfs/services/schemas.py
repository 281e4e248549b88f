"""Checks of an agent's output_schema, in a process that a hostile schema cannot outlive.

Whether a value fits a schema may take for ever (`$ref` that doubles at each level, a pattern that
backtracks), and no thread can be stopped. So one small process checks, and Linux ends it when one
check has taken CHECK_CPU_S of processor time; the next check starts another.

Concurrency: one check at a time, and of each user one in the queue, so that nobody waits for more
than one check of each of the others. `_process` is changed under the lock only,
and by `run` when nobody asks any more. A check that is cancelled ends the process, for its answer
would be taken for that of the next.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

import trio

from nexusfs.contracts.errors import InvalidError, UnavailableError
from nexusfs.services.turns import Turns

CHECK_CPU_S = 3.0
"""Processor time of one check: a schema of 64 KiB that means no harm takes a third of it."""
MOST_S = 60.0
"""Of one check, the start of the process included, however slow the machine is."""
RECEIVE_BYTES = 64 * 1024


class SchemaChecks:
    """Checks schemas, and answers against them."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` is the program of boot/schema_process.py; it is started at the first check."""
        self._command = list(command)
        self._lock = trio.Lock()
        self._turns: Turns[int] = Turns()
        self._process: trio.Process | None = None
        self._running = False
        self.starts = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until it is cancelled; then no process is left."""
        self._running = True
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._running = False
            with trio.CancelScope(shield=True):
                await self._end()

    async def check_schema(self, schema: dict[str, Any], uid: int) -> None:
        """InvalidError EINVAL for a schema that is none, or that takes too long to check."""
        await self._asked({"schema": schema}, "the schema", uid)

    async def check_answer(self, schema: dict[str, Any], answer: str, uid: int) -> str:
        """The answer as JSON text, without a fence. InvalidError EINVAL, with what is wrong."""
        return str(await self._asked({"schema": schema, "answer": answer}, "the answer", uid))

    async def _asked(self, request: dict[str, Any], what: str, uid: int) -> Any:
        line = json.dumps(request, default=str).encode() + b"\n"
        async with self._turns.of(uid), self._lock:
            reply = None
            try:
                with trio.move_on_after(MOST_S):
                    reply = await self._exchanged(line)
            finally:
                if reply is None:
                    with trio.CancelScope(shield=True):
                        await self._end()
        if reply is None:
            raise InvalidError(
                f"$.output_schema: to check {what} takes over {CHECK_CPU_S} s of processor time: "
                "write a simpler schema"
            )
        if "fault" in reply:
            raise InvalidError(str(reply["fault"]))
        return reply["value"]

    async def _exchanged(self, line: bytes) -> dict[str, Any] | None:
        """The process's reply to one line; None when it ended instead."""
        process = await self._started()
        assert process.stdin is not None and process.stdout is not None
        got = bytearray()
        try:
            await process.stdin.send_all(line)
            while not got.endswith(b"\n"):
                data = await process.stdout.receive_some(RECEIVE_BYTES)
                if not data:
                    return None
                got += data
        except trio.BrokenResourceError:
            return None
        reply: dict[str, Any] = json.loads(got)
        return reply

    async def _started(self) -> trio.Process:
        if not self._running:
            raise UnavailableError("schemas cannot be checked: the kernel is going")
        if self._process is None:
            self.starts += 1
            try:
                self._process = await trio.lowlevel.open_process(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"}, start_new_session=True,
                )  # fmt: skip
            except OSError as exc:
                raise UnavailableError(f"schemas cannot be checked: {exc.strerror}") from None
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()
            assert process.stdin is not None and process.stdout is not None
            await process.stdin.aclose()
            await process.stdout.aclose()
