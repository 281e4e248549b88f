"""One turn of an agent: deliver messages, ask the model, run the tools it wants.

Everything that matters is journaled before the next thing depends on it, so a cancel at any
suspension leaves a transcript in which only the last calls may lack results; the kernel
answers those.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from nexusfs.contracts.agent import StepAction, StepResult
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import DisconnectedError, InvalidError, KernelError
from nexusfs.contracts.model import Message, ModelCall, ModelPort, ModelReply
from nexusfs.contracts.proc import ProgramProcess
from nexusfs.contracts.tool import Tool, ToolResult, new_call_id

CLOSING_NOTE = "The turn limit is reached. Answer now, with what you have; no tools are left."


class Dispatcher(Protocol):
    """The two system calls that a turn needs; `Syscalls` has them."""

    async def sys_tools(self, cred: Credentials) -> list[Tool]:
        """The tools that the agent may use."""
        ...

    async def sys_dispatch(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str | None = None
    ) -> ToolResult:
        """Runs one."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of a model; without `arguments`, `fault` says why they are no JSON object."""

    call_id: str
    name: str
    arguments: dict[str, Any] | None
    fault: str = ""
    read_only: bool = False


class Observer:
    """Passes a model's live text on to the process, and notes attempts that failed."""

    def __init__(self, process: ProgramProcess) -> None:
        """An observer for one call."""
        self._process = process

    def text(self, piece: str) -> None:
        """A piece of text."""
        self._process.say(piece)

    def retry(self, model: str, error: str, delay_s: float) -> None:
        """An attempt failed; its text is void."""
        self._process.unsay()
        self._process.record("model_retry", model=model, error=error, delay_s=round(delay_s, 3))


async def agent_step(
    process: ProgramProcess, models: ModelPort, dispatcher: Dispatcher, *, closing: bool = False
) -> StepResult:
    """One turn; the scheduler's unit.

    `closing` is the last turn of an agent at its limit: no tools, and the model is told so.
    Returns `continue` after tool calls (and counts the turn), `done` with the answer as the
    last message, or `error` when the model failed for good.

    Suspends for the model and for tools. Cancelling leaves the transcript as far as it got.
    """
    process.deliver()
    start = len(process.transcript)
    if closing and process.transcript[-1].get("content") != CLOSING_NOTE:
        process.record("notice", message={"role": "user", "content": CLOSING_NOTE})
    tools = [] if closing else await dispatcher.sys_tools(process.cred)
    try:
        reply = await _ask(process, models, tools)
    except DisconnectedError:
        raise
    except KernelError as exc:
        process.unsay()
        process.record("model_error", error=str(exc), cause=getattr(exc, "kind", "invalid"))
        return StepResult(StepAction.ERROR, (), process.turns, str(exc))
    wanted = [] if closing else reply.message.get("tool_calls") or []
    if not wanted:
        return StepResult(StepAction.DONE, tuple(process.transcript[start:]), process.turns)
    await _run_all(process, dispatcher, [_call_of(call, tools) for call in wanted])
    process.record("turn_end", turn=process.turns + 1)
    return StepResult(StepAction.CONTINUE, tuple(process.transcript[start:]), process.turns)


async def _ask(process: ProgramProcess, models: ModelPort, tools: Sequence[Tool]) -> ModelReply:
    spec = process.spec
    system: list[Message] = []
    if spec.instructions:
        system = [{"role": "system", "content": spec.instructions}]
    call = ModelCall(
        spec.model, system + process.transcript, [tool.function() for tool in tools],
        spec.model_settings, spec.fallback_models,
    )  # fmt: skip
    process.record("model_call", model=spec.model, messages=len(call.messages))
    with process.waiting_for("model"):
        reply = await models.complete(call, Observer(process))
    message = reply.message
    if not tools and "tool_calls" in message:
        message = {key: value for key, value in message.items() if key != "tool_calls"}
        message["content"] = message.get("content") or ""
    message = _with_own_ids(message, process.transcript)
    used = reply.usage
    process.record(
        "model_reply", message=message, model=reply.model,
        usage={"input_tokens": used.input_tokens, "output_tokens": used.output_tokens,
               "cost_usd": used.cost_usd},
    )  # fmt: skip
    return ModelReply(message, used, reply.model, reply.finish_reason)


def _with_own_ids(message: Message, transcript: Sequence[Message]) -> Message:
    """The message, its tool calls with ids that no other call of the transcript has.

    Some providers leave ids empty or use them again in each turn; results go by id.
    """
    used = {call["id"] for earlier in transcript for call in earlier.get("tool_calls") or ()}
    calls = []
    for call in message.get("tool_calls") or ():
        given = call.get("id")
        own = given if isinstance(given, str) and given and given not in used else new_call_id()
        used.add(own)
        calls.append({**call, "id": own})
    return {**message, "tool_calls": calls} if calls else message


def _call_of(raw: dict[str, Any], tools: Sequence[Tool]) -> Call:
    """A model's tool call, whatever it wrote: hostile input."""
    function = raw["function"]
    name = str(function.get("name"))
    read_only = any(tool.name == name and tool.read_only for tool in tools)
    try:
        arguments = json.loads(
            function.get("arguments") or "{}",
            parse_constant=_no_constant,
            object_pairs_hook=_no_duplicates,
        )
        json.dumps(arguments, ensure_ascii=False).encode()  # refuses lone surrogates
    except (ValueError, RecursionError) as exc:
        return Call(raw["id"], name, None, f"the arguments are not JSON: {exc}")
    if not isinstance(arguments, dict):
        return Call(raw["id"], name, None, "the arguments must be a JSON object")
    return Call(raw["id"], name, arguments, read_only=read_only)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


async def _run_all(process: ProgramProcess, dispatcher: Dispatcher, calls: list[Call]) -> None:
    """Runs all calls of a turn: neighbours that only read together, all others in order."""
    for call in calls:
        process.record("tool_call", id=call.call_id, name=call.name, arguments=call.arguments)
    for group in _groups(calls):
        results: dict[str, ToolResult] = {}
        async with trio.open_nursery() as nursery:
            for call in group:
                nursery.start_soon(_run, process, dispatcher, call, results)
        if len(results) < len(group):
            raise DisconnectedError("the kernel is going")
        for call in group:
            _record_result(process, results[call.call_id])


def _groups(calls: list[Call]) -> list[list[Call]]:
    groups: list[list[Call]] = []
    for call in calls:
        if call.read_only and groups and groups[-1][-1].read_only:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


async def _run(
    process: ProgramProcess, dispatcher: Dispatcher, call: Call, results: dict[str, ToolResult]
) -> None:
    """Runs one call; every failure becomes text for the model, and its siblings go on."""
    error = call.fault
    if call.arguments is not None:
        try:
            with process.waiting_for(f"tool:{call.name}"):
                results[call.call_id] = await dispatcher.sys_dispatch(
                    process.cred, call.name, call.arguments, call.call_id
                )
            return
        except DisconnectedError:
            return  # without a result: raised outside the nursery, which would wrap it
        except InvalidError as exc:
            error = f"the arguments do not fit: {exc}"
        except KernelError as exc:
            error = str(exc)
    results[call.call_id] = ToolResult(call.call_id, call.name, "", error, 0.0)


def _record_result(process: ProgramProcess, result: ToolResult) -> None:
    output = result.output
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    if result.error is not None:
        text = f"error: {result.error}"
    process.record(
        "tool_result", id=result.tool_call_id, name=result.name, error=result.error,
        duration_ms=round(result.duration_ms, 3),
        message={"role": "tool", "tool_call_id": result.tool_call_id, "name": result.name,
                 "content": text},
    )  # fmt: skip
