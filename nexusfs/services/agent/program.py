"""The program of an agent's process: turns until there is an answer, a limit or an error."""

from nexusfs.contracts.agent import AgentLoopConfig, StepAction, StepResult
from nexusfs.contracts.errors import InterruptedCallError, InvalidError, QuotaError
from nexusfs.contracts.model import ModelPort
from nexusfs.contracts.proc import EXIT_DONE, EXIT_FAILED, EXIT_LIMIT, Outcome, ProgramProcess
from nexusfs.services.agent.loop import Loop, Ports
from nexusfs.services.agent.output import ASKS_AGAIN, OutputCheck, ask_again
from nexusfs.services.agent.seams import Dispatcher, Home, NoHome

INTERRUPTED = "interrupted: the turn was dropped, the outcome is unknown"


class AgentProgram:
    """Runs agents over a model port and the kernel's tools."""

    def __init__(
        self, models: ModelPort, dispatcher: Dispatcher, home: Home | None = None,
        check_output: OutputCheck | None = None, config: AgentLoopConfig | None = None,
    ) -> None:  # fmt: skip
        """One program serves all agents; with a `config` it holds for all, else each one's spec.

        `check_output` checks an answer against an output_schema.
        """
        self._ports = Ports(models, dispatcher, home or NoHome())
        self._check_output = check_output
        self._config = config

    async def __call__(self, process: ProgramProcess) -> Outcome:
        """Runs one agent to its end. A chat agent has none but a signal."""
        loop: Loop | None = None  # an idle agent has none
        if process.spec.paths is not None:
            await self._ports.home.prepare(process)
        while True:
            await process.pause_point()
            if loop is None and (process.transcript or expects_model(process)):
                loop = Loop(process, self._ports, self._config)
            if loop is None or not expects_model(process):
                if loop is not None and is_answered(process):
                    outcome = await self._answered(process, loop)
                    if outcome is None:
                        continue
                    return outcome
                await process.message_arrived()
                continue
            try:
                result = await self._turn(process, loop)
            except InterruptedCallError:
                continue
            except QuotaError as exc:
                return Outcome(EXIT_LIMIT, process.limit or str(exc), said_last(process))
            outcome = await self._after(process, loop, result)
            if outcome is not None:
                return outcome

    async def _turn(self, process: ProgramProcess, loop: Loop) -> StepResult:
        """One turn. InterruptedCallError when it was dropped; QuotaError when it cannot be."""
        with process.turn_scope() as turn:
            result = await self._step(process, loop)
        if turn.interrupted:
            process.unsay()
            process.answer_open_calls(INTERRUPTED)
            process.record("interrupted")
            raise InterruptedCallError("the turn was dropped")
        return result

    async def _step(self, process: ProgramProcess, loop: Loop) -> StepResult:
        """One step; at a limit one without tools, as far as there is room for it."""
        if process.open:
            return await loop.step()
        limit = process.limit or process.limit_reached() or ""
        if not limit:
            closing = process.rounds >= loop.config.max_turns and not process.has_mail
            try:
                return await loop.step(closing=closing)
            except QuotaError as exc:
                limit = str(exc)
        return await loop.step(closing=True, limit=limit)

    async def _after(
        self, process: ProgramProcess, loop: Loop, result: StepResult
    ) -> Outcome | None:
        """What a turn leads to: the end, or None to go on."""
        outcome = None
        if result.action is StepAction.ERROR:
            if process.spec.mode == "oneshot":
                outcome = Outcome(EXIT_FAILED, f"model: {result.error}")
        elif result.action is StepAction.DONE and (process.closing or not untold(process)):
            outcome = await self._answered(process, loop)
        if process.spec.checkpoint == "turn":
            await self._ports.home.checkpoint(process)
        return outcome

    async def _answered(self, process: ProgramProcess, loop: Loop) -> Outcome | None:
        """The end of a oneshot that has answered; None when the answer is to be asked for again.

        A chat agent is asked again too, and has no end.
        """
        answer = str(process.transcript[-1].get("content") or "")
        schema, fault = process.spec.output_schema, ""
        if schema is not None and self._check_output is not None:
            try:
                answer = await self._check_output(schema, answer, process.cred.uid)
            except InvalidError as exc:
                fault = str(exc)
                if process.asked_again < ASKS_AGAIN and not process.closing:
                    message = {"role": "user", "content": ask_again(fault)}
                    process.record("notice", about="output_schema", message=message)
                    return None
        if process.closing and process.limit:
            return Outcome(EXIT_LIMIT, process.limit, answer)
        if process.spec.mode == "chat":
            return None
        if process.closing:
            return Outcome(EXIT_LIMIT, f"max_turns ({loop.config.max_turns}) reached", answer)
        if fault:
            return Outcome(EXIT_FAILED, f"the answer does not fit output_schema: {fault}", answer)
        return Outcome(EXIT_DONE, "done", answer)


def untold(process: ProgramProcess) -> bool:
    """True when there is something that the model was not told yet, and that does not wait."""
    return process.has_mail or process.has_news


def said_last(process: ProgramProcess) -> str:
    """What the model last said; empty when it never did."""
    said = (m for m in reversed(process.transcript) if m["role"] == "assistant")
    return str(next(said, {}).get("content") or "")


def expects_model(process: ProgramProcess) -> bool:
    """True when there is something to do: messages, a question, calls or results of tools."""
    if untold(process) or process.open:
        return True
    if not process.transcript or (process.dropped and process.spec.mode == "chat"):
        return False
    return bool(process.transcript[-1]["role"] != "assistant")


def is_answered(process: ProgramProcess) -> bool:
    """True for a oneshot whose transcript ends with its answer."""
    return process.spec.mode == "oneshot" and bool(process.transcript)
