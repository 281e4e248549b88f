"""One turn of an agent: deliver messages, ask the model, run the tools it wants.

Everything that matters is journaled before the next thing depends on it, so a cancel at any
suspension leaves a transcript in which only the last calls may lack results. A turn that finds
such calls runs them first (calls.py) instead of asking: that is how an agent resumes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from nexusfs.contracts.agent import AgentLoopConfig, StepAction, StepResult
from nexusfs.contracts.errors import DisconnectedError, KernelError, ModelError, QuotaError
from nexusfs.contracts.model import Message, ModelCall, ModelPort, ModelReply, Usage
from nexusfs.contracts.proc import ProgramProcess, Slot
from nexusfs.contracts.tool import Tool, new_call_id
from nexusfs.services.agent.calls import Calls
from nexusfs.services.agent.context import BYTES_A_TOKEN, Context
from nexusfs.services.agent.metered import reserved
from nexusfs.services.agent.output import schema_note
from nexusfs.services.agent.seams import Dispatcher, Home, NoHome

CLOSING_NOTE = "The turn limit is reached. Answer now, with what you have; no tools are left."
LIMIT_NOTE = "A limit: {}. Answer now, with what you have; no tools are left."
SUMMARISE = (
    "You summarise a conversation between a user, an assistant and its tools, so that the "
    "assistant can go on without it. Keep what was asked, decided, found and done, with names, "
    "paths and numbers; leave out how. Answer with the summary alone."
)
CALLS_MAX = 128
"""Tool calls of one answer; the rest is dropped. Each is journaled, in one step, when it is cut."""
OVERFLOWS = 3
"""How often a prompt that a provider refuses as too long is made shorter."""


class Observer:
    """Passes a model's live text on to the process, and waits between attempts without a slot."""

    def __init__(self, process: ProgramProcess, slot: Slot) -> None:
        """An observer for one call; `slot` holds the process's model slot."""
        self._process = process
        self._slot = slot

    def text(self, piece: str) -> None:
        """A piece of text."""
        self._process.say(piece)

    async def retry(self, model: str, error: str, delay_s: float) -> None:
        """An attempt failed; its text is void. Suspends until there is a slot for the next one.

        DisconnectedError ENOTCONN when the kernel is going. Cancelling leaves no slot taken.
        """
        self._process.unsay()
        self._process.record("model_retry", model=model, error=error, delay_s=round(delay_s, 3))
        self._slot.give_back()
        await trio.sleep(delay_s)
        await self._slot.take()


class Unheard(Observer):
    """Takes the text of a call that is not the agent's answer."""

    def text(self, piece: str) -> None:
        """Nobody is shown it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What turns need: a model port, the two system calls, and the agent's files."""

    models: ModelPort
    dispatcher: Dispatcher
    home: Home


async def agent_step(
    process: ProgramProcess, models: ModelPort, dispatcher: Dispatcher, *, closing: bool = False,
    config: AgentLoopConfig | None = None,
) -> StepResult:  # fmt: skip
    """One turn, callable alone; see `Loop.step`. Without a `config`, the spec's."""
    ports = Ports(models, dispatcher, NoHome())
    return await Loop(process, ports, config).step(closing=closing)


class Loop:
    """The turns of one agent."""

    def __init__(
        self, process: ProgramProcess, ports: Ports, config: AgentLoopConfig | None = None
    ) -> None:
        """Without a `config`, the one that follows from the spec."""
        self.config = config or AgentLoopConfig.of(process.spec)
        self._process = process
        self._ports = ports
        self._context: Context | None = None
        self._memory: str | None = None
        self._slot = process.model_slot()

    async def step(self, *, closing: bool = False, limit: str = "") -> StepResult:
        """One turn; the scheduler's unit.

        `closing` is the last turn of an agent at its limit: no tools, and the model is told so;
        `limit` names it where it is not max_turns. Returns `continue` after tool calls (and counts
        the turn), `done` with the answer as the last message, or `error` when the model failed for
        good.

        QuotaError EDQUOT: a limit has no room for the call; what came before it is recorded.

        Suspends for a model slot, the model and tools, and while the process is paused.
        Cancelling leaves the transcript as far as it got.
        """
        process = self._process
        while not process.open and process.deliver():
            self._memory = None
            if process.has_mail:
                await trio.lowlevel.checkpoint()  # 10,000 may wait
        if closing or process.open:  # the turn of calls that are open is under way already
            return await self._step(closing=closing, limit=limit)
        with process.hold_turn():
            return await self._step(closing=False, limit="")

    async def _step(self, *, closing: bool, limit: str) -> StepResult:
        process = self._process
        start = len(process.transcript)
        tools: list[Tool] = []
        if process.open or not closing:
            tools = await self._ports.dispatcher.sys_tools(process.cred)
        if not process.open:
            if closing and not process.closing:
                note = LIMIT_NOTE.format(limit) if limit else CLOSING_NOTE
                process.record("notice", limit=limit, message={"role": "user", "content": note})
            try:
                await self._ask(tools, closing=closing)
            except (DisconnectedError, QuotaError):
                raise
            except KernelError as exc:
                process.unsay()
                process.record("model_error", error=str(exc), cause=getattr(exc, "kind", "invalid"))
                return StepResult(StepAction.ERROR, (), process.turns, str(exc))
        if not process.open:
            return StepResult(StepAction.DONE, tuple(process.transcript[start:]), process.turns)
        calls = Calls(process, self._ports.dispatcher, self._ports.home, self.config)
        await calls.run(tools)
        process.record("turn_end", turn=process.turns + 1)
        return StepResult(StepAction.CONTINUE, tuple(process.transcript[start:]), process.turns)

    # -- the model

    async def _ask(self, tools: Sequence[Tool], *, closing: bool) -> None:
        """Asks until there is a reply, and records it. KernelError, also ModelError."""
        system = await self._system()
        if self._context is None:
            self._context = Context(self._process, self.config)
        async with self._slot:
            for left in reversed(range(OVERFLOWS + 1)):
                try:
                    await self._call(system, tools, closing=closing)
                    break
                except ModelError as exc:
                    if exc.kind != "context_length" or not left or not self._context.refused():
                        raise
                    self._process.unsay()

    async def _call(self, system: str, tools: Sequence[Tool], *, closing: bool) -> None:
        """One call, within the limits; they are settled by the record of the reply."""
        process, spec = self._process, self._process.spec
        assert self._context is not None
        functions = [tool.function for tool in tools]
        with process.waiting_for("model"):
            messages = await self._context.prompt(system, tools, self._summarise)
            call = ModelCall(
                spec.model, messages, functions, spec.model_settings, spec.fallback_models,
                str(process.pid),
            )  # fmt: skip
            held, call = await reserved(process, self._ports.models, call, closing=closing)
            with held:
                process.record("model_call", model=spec.model, messages=len(messages))
                reply = await self._ports.models.complete(call, Observer(process, self._slot))
                self._take(reply, tools)
                over = held.excess(reply.usage)
                if over:
                    process.record("excess", **over)

    def _take(self, reply: ModelReply, tools: Sequence[Tool]) -> None:
        """Records a reply; the calls in it are open from here on."""
        assert self._context is not None
        message, used = reply.message, reply.usage
        if not tools and "tool_calls" in message:
            message = {key: value for key, value in message.items() if key != "tool_calls"}
            message["content"] = message.get("content") or ""
        wanted, dropped = message.get("tool_calls") or [], {}
        if len(wanted) > CALLS_MAX:
            message = {**message, "tool_calls": wanted[:CALLS_MAX]}
            dropped = {"calls_dropped": len(wanted) - CALLS_MAX}
        message = _with_own_ids(message, self._process.call_ids or set())
        self._process.record(
            "model_reply", message=message, model=reply.model,
            usage={"input_tokens": used.input_tokens, "output_tokens": used.output_tokens,
                   "cost_usd": used.cost_usd},
            **dropped,
        )  # fmt: skip
        self._context.counted(used.input_tokens, reply.window_tokens)

    async def _system(self) -> str:
        """The system message: instructions, the agent's memory, the shape of the answer."""
        if self._memory is None:
            self._memory = await self._ports.home.memory(self._process)
        spec = self._process.spec
        parts = [spec.instructions]
        if self._memory:
            parts.append(f"Your memory (MEMORY.md of your home):\n{self._memory}")
        if spec.output_schema is not None:
            parts.append(schema_note(spec.output_schema))
        return "\n\n".join(part for part in parts if part)

    async def _summarise(
        self, so_far: str, messages: Sequence[Message], budget_tokens: int
    ) -> tuple[str, Usage] | None:
        """A summary of messages that leave the prompt; None when the model does not give one."""
        spec, known = self._process.spec, f"Summary so far: {so_far}\n\n" if so_far else ""
        said = "\n\n".join(_as_text(message) for message in messages).encode("utf-8", "replace")
        room = max(budget_tokens * BYTES_A_TOKEN - len(known.encode("utf-8", "replace")), 0)
        text = known + said[max(len(said) - room, 0) :].decode("utf-8", "ignore")
        asked: list[Message] = [
            {"role": "system", "content": SUMMARISE},
            {"role": "user", "content": text},
        ]
        call = ModelCall(spec.model, asked, [], spec.model_settings, spec.fallback_models)
        try:
            held, call = await reserved(self._process, self._ports.models, call)
            with held:
                reply = await self._ports.models.complete(call, Unheard(self._process, self._slot))
        except (ModelError, QuotaError):
            return None
        summary = str(reply.message.get("content") or "")[: budget_tokens * BYTES_A_TOKEN // 4]
        return (summary, reply.usage) if summary else None


def _as_text(message: Message) -> str:
    """A message as a line of a transcript, its calls in words."""
    who = message.get("name") or message["role"]
    said = [str(message["content"])] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        function: dict[str, Any] = call["function"]
        said.append(f"calls {function.get('name')}({function.get('arguments') or ''})")
    return f"{who}: " + json.dumps("; ".join(said), ensure_ascii=False)


def _with_own_ids(message: Message, known: set[str]) -> Message:
    """The message, its tool calls with ids that no other call of the transcript has.

    Some providers leave ids empty or use them again in each turn; results go by id.
    """
    calls: list[dict[str, Any]] = []
    used: set[str] = set()
    for call in message.get("tool_calls") or ():
        given = call.get("id")
        fresh = isinstance(given, str) and given and given not in known and given not in used
        own = given if fresh else new_call_id()
        used.add(own)
        calls.append({**call, "id": own})
    return {**message, "tool_calls": calls} if calls else message
