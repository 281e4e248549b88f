"""The tool table: registration, and the one way to run a tool."""

import logging
import time
from collections.abc import Callable
from errno import EACCES
from typing import Any, Protocol

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    CapacityError,
    DisconnectedError,
    ExistsError,
    KernelError,
    NoSandboxError,
    QuotaError,
    TimeoutExpiredError,
    UnknownToolError,
)
from nexusfs.contracts.hooks import DispatchContext, Identity, RefusalContext
from nexusfs.contracts.tool import Tool, ToolContext, ToolResult, new_call_id
from nexusfs.contracts.words import nearest
from nexusfs.kernel.arguments import validate_arguments_async
from nexusfs.kernel.hooks import Hooks, is_contained

log = logging.getLogger(__name__)

_REFUSALS = (
    CapacityError, DisconnectedError, NoSandboxError, QuotaError, TimeoutExpiredError,
)  # fmt: skip
"""What the caller gets as it is, with its errno, for the tool did not fail by itself."""


class Decide(Protocol):
    """See `Approvals.decide`."""

    async def __call__(
        self, cred: Credentials, tool: Tool, arguments: dict[str, Any], call_id: str,
        *, wait: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """The arguments with which a call may run. AccessError EACCES."""
        ...


class ToolTable:
    """All registered tools, by name.

    `context_of` makes the context of a call from the caller's credentials and the call id;
    `allowed` gives, of names of tools, those that the caller may use: what he may not use does
    not exist for him.
    `admit` is asked before a call (caller, name, call id) and may refuse it: QuotaError EDQUOT.
    `decide` gives the arguments that a call may run with, or refuses it: AccessError EACCES.
    `identity` says who a caller is, for the hooks.
    """

    def __init__(
        self,
        context_of: Callable[[Credentials, str], ToolContext],
        allowed: Callable[[Credentials, tuple[str, ...]], tuple[str, ...]],
        hooks: Hooks | None = None,
        identity: Callable[[Credentials], Identity] | None = None,
    ) -> None:
        """An empty table."""
        self._tools: dict[str, Tool] = {}
        self._names: tuple[str, ...] = ()
        self._hooks = hooks or Hooks()
        self._identity = identity or _nobody
        self._context_of = context_of
        self._allowed = allowed
        self.decide: Decide = _as_given
        self.admit: Callable[[Credentials, str, str], None] = lambda *_: None
        self.running = 0

    def register(self, tool: Tool) -> None:
        """Adds a tool. ExistsError EEXIST for a name that is taken."""
        if tool.name in self._tools:
            raise ExistsError(f"tool already registered: {tool.name!r}")
        self._tools[tool.name] = tool
        self._tools = dict(sorted(self._tools.items()))
        self._names = tuple(self._tools)

    def all_names(self) -> list[str]:
        """Every registered name, sorted."""
        return list(self._tools)

    def names(self, cred: Credentials) -> list[str]:
        """The tools that the caller may use, sorted."""
        return list(self._allowed(cred, self._names))

    def usable(self, cred: Credentials) -> list[Tool]:
        """The same, the tools themselves."""
        return [self._tools[name] for name in self._allowed(cred, self._names)]

    def get(self, cred: Credentials, name: str) -> Tool:
        """The tool. UnknownToolError ENOENT, naming the nearest, also for one that is denied."""
        tool = self._tools.get(name)
        if tool is not None and name not in self._allowed(cred, self._names):
            self._tell_denied(cred, name)
            tool = None
        if tool is None:
            near = nearest(name, self.names(cred))
            hint = f"did you mean {near!r}?" if near else "ls dispatch lists what there is"
            raise UnknownToolError(f"no tool {name!r}: {hint}")
        return tool

    def _tell_denied(self, cred: Credentials, name: str) -> None:
        """Tells hooks that somebody asked for a tool which is there, but not for him."""
        if self._hooks.on("refused"):
            who = self._identity(cred)
            self._hooks.now(
                "refused", RefusalContext(*who, "dispatch", name, EACCES, f"denied: {name}")
            )

    async def dispatch(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str | None = None
    ) -> ToolResult:
        """Runs a tool with the caller's rights.

        Raises:
            UnknownToolError: ENOENT.
            InvalidError: EINVAL, the arguments do not fit the schema.
            TimeoutExpiredError: ETIMEDOUT, over the tool's timeout; the call was cancelled.
            AccessError: EACCES, denied by a rule, or by a person who was asked.
            QuotaError: EDQUOT, a limit of the calling agent, or above it, is reached.
            NoSandboxError, CapacityError: EOPNOTSUPP, EAGAIN, a program of it may not run now.

        A tool that fails gives a result with `error` set, whatever it raised. Suspends for as
        long as the tool runs; cancelling cancels the tool.
        """
        tool = self.get(cred, name)
        await validate_arguments_async(tool.input_schema, arguments, tool.fits)
        await trio.lowlevel.checkpoint_if_cancelled()  # the thread that validated did not notice
        context = self._context_of(cred, call_id or new_call_id())
        self.admit(cred, name, context.call_id)
        arguments = await self.decide(cred, tool, arguments, context.call_id)
        told = self._told(cred, name, context.call_id, arguments)
        if told is not None:
            await self._hooks.before("pre_dispatch", told)
        started = time.perf_counter()
        failure: KernelError | None = None
        output: str | bytes = ""
        error: str | None = None
        try:
            output, error = await self._run(tool, context, arguments)
        except _REFUSALS as exc:
            failure, error = exc, str(exc)
        duration_ms = (time.perf_counter() - started) * 1000
        if told is not None:
            told.error, told.duration_ms = error, duration_ms
            await self._hooks.after("post_dispatch", told)
        if failure is not None:
            raise failure
        warnings = tuple(told.warnings) if told is not None else ()
        return ToolResult(context.call_id, name, output, error, duration_ms, warnings)

    async def permit(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str, *, wait: bool
    ) -> dict[str, Any]:
        """The arguments that a call may run with, decided before it is journaled as begun.

        Without `wait` a person is asked where one must be, and nobody waits for the answer.
        UnknownToolError, InvalidError, AccessError as `dispatch`.
        """
        return await self.decide(cred, self.get(cred, name), arguments, call_id, wait=wait)

    def all_tools(self) -> list[Tool]:
        """Every registered tool."""
        return list(self._tools.values())

    def _told(
        self, cred: Credentials, name: str, call_id: str, arguments: dict[str, Any]
    ) -> DispatchContext | None:
        """What hooks are told; None when nobody listens."""
        if not (self._hooks.on("pre_dispatch") or self._hooks.on("post_dispatch")):
            return None
        return DispatchContext(*self._identity(cred), name, call_id, arguments)

    async def _run(
        self, tool: Tool, context: ToolContext, arguments: dict[str, Any]
    ) -> tuple[str | bytes, str | None]:
        """(output, error) of a call. Raises what is in _REFUSALS."""
        self.running += 1
        try:
            with trio.move_on_after(tool.timeout_s) as limit:
                return await tool.run(context, **arguments), None
            assert limit.cancelled_caught
            raise TimeoutExpiredError(
                f"{tool.name} took over {tool.timeout_s:g} s and was cancelled"
            )
        except _REFUSALS:
            raise
        except trio.TooSlowError:
            return "", "it gave up waiting for something of its own"
        except KernelError as exc:
            return "", str(exc)
        except BaseException as exc:
            if not is_contained(exc):
                raise
            log.exception("tool %s failed unexpectedly", tool.name)
            return "", f"internal error: {type(exc).__name__}"
        finally:
            self.running -= 1


async def _as_given(
    cred: Credentials, tool: Tool, arguments: dict[str, Any], call_id: str, *, wait: bool = True
) -> dict[str, Any]:
    """Without rules every call runs."""
    return arguments


def _nobody(cred: Credentials) -> Identity:
    """A caller of a table that knows no agents."""
    return Identity("", "", cred.agent_pid, 0, cred.uid, {})
