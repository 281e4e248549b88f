"""The audit hook: a line for every spawn, end, dispatch and refusal, before it takes effect.

An intent that cannot be written refuses the effect; the line of an end or an outcome that cannot
be written is a line of the daemon's log instead.
"""

import time
from typing import Any

from nexusfs.contracts.audit import AuditLog
from nexusfs.contracts.hooks import (
    DispatchContext,
    HookContext,
    RefusalContext,
    SpawnContext,
    TerminateContext,
)
from nexusfs.contracts.times import iso


class AuditHook:
    """Writes the log; see `contracts.hooks` for the points."""

    def __init__(self, log: AuditLog) -> None:
        """The hook over a log."""
        self._log = log

    def pre_spawn(self, context: SpawnContext) -> None:
        """`spawn`: somebody is about to start an agent."""
        self._write("spawn", context, model=context.spec.model, tools=context.spec.tools)

    def post_spawn(self, context: SpawnContext) -> None:
        """`spawned`: it has a pid."""
        self._write("spawned", context)

    def pre_terminate(self, context: TerminateContext) -> None:
        """`end`: it ends, with code and reason."""
        self._write("end", context, exit_code=context.exit_code, reason=context.reason)

    def pre_dispatch(self, context: DispatchContext) -> None:
        """`dispatch`: a tool is about to run."""
        self._write(
            "dispatch", context, tool=context.tool, call_id=context.call_id,
            arguments=context.arguments,
        )  # fmt: skip

    def post_dispatch(self, context: DispatchContext) -> None:
        """`dispatched`: it has run; `error` is null when it did not fail."""
        self._write(
            "dispatched", context, tool=context.tool, call_id=context.call_id,
            error=context.error, duration_ms=round(context.duration_ms, 3),
        )  # fmt: skip

    def refused(self, context: RefusalContext) -> None:
        """`refused`: rights, a rule or a hook said no."""
        self._write(
            "refused", context, op=context.op, target=context.target, errno=context.errno,
            message=context.message,
        )  # fmt: skip

    def _write(self, event: str, context: HookContext, **more: Any) -> None:
        self._log.append({
            "time": iso(time.time_ns()), "event": event, "agent": context.agent_id,
            "zone": context.zone_id, "pid": context.pid, "parent": context.parent_pid,
            "uid": context.uid, **more,
        })  # fmt: skip
