"""The tool calls of one turn: from what a model wrote to results, journaled around each step.

Order: all intents are journaled; then, group by group, a call that may not be run twice is noted
as begun and all that is on disk before it runs; results are journaled in call order, each as soon
as those before it are there. So after a crash every call without a result either never began, or
may be run again, or its outcome is unknown and the model is told so.
"""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import trio

from nexusfs.contracts.agent import AgentLoopConfig
from nexusfs.contracts.errors import (
    AccessError,
    DisconnectedError,
    InvalidError,
    KernelError,
    QuotaError,
    UnknownToolError,
)
from nexusfs.contracts.nesting import MAX_DEPTH, is_too_deep
from nexusfs.contracts.proc import ProgramProcess
from nexusfs.contracts.tool import Tool, ToolResult
from nexusfs.services.agent.seams import Dispatcher, Home

UNKNOWN = (
    "interrupted: the call was cut off, its outcome is unknown. Find out what it did before you "
    "repeat it"
)


NAME_CHARS = 200
"""As much of the name in a call is shown to anybody; no tool has so long a one."""
ERROR_CHARS = 2000
"""As much of an error is in the event; the model gets what fits, and a file has it all."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of a model; without `arguments`, `fault` says why they are no JSON object.

    One of a tool that was not `offered` is refused, each time that it runs.
    """

    call_id: str
    name: str
    arguments: dict[str, Any] | None
    fault: str = ""
    read_only: bool = False
    repeatable: bool = False
    offered: bool = True


class Calls:
    """Runs the open calls of a process."""

    def __init__(
        self, process: ProgramProcess, dispatcher: Dispatcher, home: Home, config: AgentLoopConfig
    ) -> None:
        """Tools run by `dispatcher`; what they say too much of goes to `home`."""
        self._process = process
        self._dispatcher = dispatcher
        self._home = home
        self._config = config
        self._failure: KernelError | None = None

    async def run(self, tools: Sequence[Tool]) -> None:
        """Gives every open call a result: neighbours that only read together, others in order.

        DisconnectedError ENOTCONN when the kernel is going: calls that have not begun stay open.
        """
        process = self._process
        begun = set(process.begun or ())
        calls = [_call_of(raw, tools, process.spec.cwd) for raw in process.open_calls()]
        calls = [  # decided before any runs, so that a person sees all questions at once
            call if call.call_id in begun else await self._permitted(call, wait=False)
            for call in self._noted(calls)
        ]
        for group in self._groups(calls):
            await process.pause_point()
            for number, call in enumerate(group):
                if process.asks(call.call_id):
                    group[number] = await self._permitted(call)
            await self._run_group(group, begun)

    def _noted(self, calls: list[Call]) -> list[Call]:
        """The calls, their intents journaled, but for those that were before a crash.

        A call for which no limit has room is no intent: it fails.
        """
        noted = self._process.intents or set()
        return [call if call.call_id in noted else self._intent(call) for call in calls]

    def _intent(self, call: Call) -> Call:
        try:
            self._process.check_tool()
        except QuotaError as exc:
            return replace(call, arguments=None, fault=str(exc))
        self._process.record("tool_call", id=call.call_id, name=call.name, arguments=call.arguments)
        return call

    async def _permitted(self, call: Call, *, wait: bool = True) -> Call:
        """The call as rules, and people where a rule asks them, let it run; or with its fault.

        Before it is noted as begun: so a call that waits for an answer at a crash waits again.
        """
        if call.arguments is None or not call.offered:
            return call  # running it says what is wrong
        try:
            arguments = await self._dispatcher.sys_permit(
                self._process.cred, call.name, call.arguments, call.call_id, wait=wait
            )
        except (AccessError, QuotaError) as exc:
            return replace(call, arguments=None, fault=str(exc))
        except (UnknownToolError, InvalidError):
            return call
        return call if arguments is call.arguments else replace(call, arguments=arguments)

    def _groups(self, calls: list[Call]) -> list[list[Call]]:
        """Neighbours that only read, and that nobody is asked about, are one group."""
        groups: list[list[Call]] = []
        before = False
        for call in calls:
            free = call.read_only and not self._process.asks(call.call_id)
            if free and before and self._config.parallel_tool_dispatch:
                groups[-1].append(call)
            else:
                groups.append([call])
            before = free
        return groups

    async def _run_group(self, group: list[Call], begun: set[str]) -> None:
        """Runs a group but for the calls that had begun before a crash: they are lost."""
        results = {c.call_id: (_lost(c), UNKNOWN) for c in group if c.call_id in begun}
        left = [call for call in group if call.call_id not in begun]
        once = [call.call_id for call in left if not call.repeatable and not call.fault]
        if once:
            self._process.record("tool_start", ids=once)
            await self._process.on_disk()
        if len(left) == 1:
            await self._run_one(left[0], group, results)
        else:
            async with trio.open_nursery() as nursery:
                for call in left:
                    nursery.start_soon(self._run_one, call, group, results)
        if self._failure is not None:
            raise self._failure
        self._record_ready(group, results)
        if self._process.spec.checkpoint == "tool":
            await self._home.checkpoint(self._process)

    async def _run_one(
        self, call: Call, group: list[Call], results: dict[str, tuple[ToolResult, str]]
    ) -> None:
        """Runs one call; every failure of it becomes text for the model, and its siblings go on.

        What the turn cannot go on with is kept and raised outside the nursery, which would wrap it.
        """
        try:
            result = await self._dispatched(call)
            said = _text_of(result) if result.error is None else f"error: {result.error}"
            text = await self._home.fitted(self._process, call.call_id, said)
            results[call.call_id] = (result, text)
            self._record_ready(group, results)
        except KernelError as exc:
            self._failure = exc

    def _record_ready(self, group: list[Call], results: dict[str, tuple[ToolResult, str]]) -> None:
        """Journals the results that are there, up to the first call that has none yet."""
        for call in group:
            if call.call_id not in results:
                break
            if call.call_id in (self._process.open or ()):
                self._record(*results[call.call_id])

    async def _dispatched(self, call: Call) -> ToolResult:
        error = call.fault
        if call.arguments is not None:
            try:
                limit_s = self._config.tool_timeout_s
                bound = nullcontext() if limit_s == math.inf else trio.fail_after(limit_s)
                with self._process.waiting_for(f"tool:{call.name}"), bound:
                    return await self._dispatcher.sys_dispatch(
                        self._process.cred, call.name, call.arguments, call.call_id
                    )
            except DisconnectedError:
                raise
            except trio.TooSlowError:
                error = f"{call.name} took over {self._config.tool_timeout_s:g} s and was cancelled"
            except InvalidError as exc:
                error = f"the arguments do not fit: {exc}"
            except KernelError as exc:
                error = str(exc)
        return ToolResult(call.call_id, call.name, "", error, 0.0)

    def _record(self, result: ToolResult, text: str) -> None:
        self._process.record(
            "tool_result", id=result.tool_call_id, name=result.name,
            error=result.error and result.error[:ERROR_CHARS],
            duration_ms=round(result.duration_ms, 3),
            message={"role": "tool", "tool_call_id": result.tool_call_id, "name": result.name,
                     "content": text},
        )  # fmt: skip


def _lost(call: Call) -> ToolResult:
    return ToolResult(call.call_id, call.name, "", UNKNOWN, 0.0)


def _text_of(result: ToolResult) -> str:
    output = result.output
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output


def _call_of(raw: dict[str, Any], tools: Sequence[Tool], cwd: str) -> Call:
    """A model's tool call, whatever it wrote: hostile input."""
    function = raw.get("function") or {}
    name = str(function.get("name") or "")[:NAME_CHARS]
    try:
        arguments = arguments_of(function.get("arguments") or "{}")
    except InvalidError as exc:
        return Call(raw["id"], name, None, str(exc))
    tool = next((one for one in tools if one.name == name), None)
    if tool is None:
        return Call(raw["id"], name, arguments, repeatable=True, offered=False)
    return Call(
        raw["id"], name, arguments,
        read_only=tool.read_only, repeatable=tool.repeatable(cwd, arguments),
    )  # fmt: skip


def arguments_of(text: Any) -> dict[str, Any]:
    """The arguments that a model wrote. InvalidError EINVAL: they are no JSON object."""
    try:
        if not isinstance(text, str):
            raise TypeError(f"they are {type(text).__name__}, not text")
        arguments = _DECODER.decode(text)
        if is_too_deep(arguments):
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if "\\u" in text or not text.isascii():
            json.dumps(arguments, ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidError(f"the arguments are not JSON: {exc}") from None
    if not isinstance(arguments, dict):
        raise InvalidError("the arguments must be a JSON object")
    return arguments


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
