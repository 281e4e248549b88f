"""The program of an agent's process: turns until there is an answer, a limit or an error."""

from nexusfs.contracts.agent import StepAction, StepResult
from nexusfs.contracts.errors import InterruptedCallError
from nexusfs.contracts.model import Message, ModelPort
from nexusfs.contracts.proc import EXIT_DONE, EXIT_FAILED, EXIT_LIMIT, Outcome, ProgramProcess
from nexusfs.services.agent.loop import CLOSING_NOTE, Dispatcher, agent_step

INTERRUPTED = "interrupted: the turn was dropped, the outcome is unknown"


class AgentProgram:
    """Runs agents over a model port and the kernel's tools."""

    def __init__(self, models: ModelPort, dispatcher: Dispatcher) -> None:
        """One program serves all agents."""
        self._models = models
        self._dispatcher = dispatcher

    async def __call__(self, process: ProgramProcess) -> Outcome:
        """Runs one agent to its end. A chat agent has none but a signal."""
        while True:
            await process.pause_point()
            if not expects_model(process):
                if is_answered(process):  # the kernel died before it could record the end
                    return _outcome(process, closing=was_closing(process.transcript))
                await process.message_arrived()
                continue
            try:
                result, closing = await self._turn(process)
            except InterruptedCallError:
                continue
            if process.spec.mode == "oneshot" and result.action is not StepAction.CONTINUE:
                if expects_model(process) and result.action is StepAction.DONE and not closing:
                    continue
                if result.action is StepAction.ERROR:
                    return Outcome(EXIT_FAILED, f"model: {result.error}")
                return _outcome(process, closing=closing)

    async def _turn(self, process: ProgramProcess) -> tuple[StepResult, bool]:
        """One turn and whether it was the closing one. InterruptedCallError when it was dropped."""
        rounds = rounds_since_input(process.transcript)
        closing = rounds >= process.spec.max_turns and not process.has_mail
        with process.turn_scope() as turn:
            result = await agent_step(process, self._models, self._dispatcher, closing=closing)
        if turn.interrupted:
            process.unsay()
            process.answer_open_calls(INTERRUPTED)
            process.record("interrupted")
            raise InterruptedCallError("the turn was dropped")
        return result, closing


def expects_model(process: ProgramProcess) -> bool:
    """True when the model has something to answer: messages, a question, or tool results."""
    if process.has_mail:
        return True
    if not process.transcript or (process.dropped and process.spec.mode == "chat"):
        return False
    return bool(process.transcript[-1]["role"] != "assistant")


def rounds_since_input(transcript: list[Message]) -> int:
    """Turns with tool calls since the last message that was not a tool's result."""
    rounds = 0
    for message in reversed(transcript):
        if message["role"] == "user" and message["content"] != CLOSING_NOTE:
            break
        rounds += bool(message.get("tool_calls"))
    return rounds


def is_answered(process: ProgramProcess) -> bool:
    """True for a oneshot whose transcript ends with its answer."""
    return process.spec.mode == "oneshot" and bool(process.transcript)


def was_closing(transcript: list[Message]) -> bool:
    """True when the last turn was told that it is the last."""
    asked = [message for message in transcript if message["role"] == "user"]
    return bool(asked) and asked[-1]["content"] == CLOSING_NOTE


def _outcome(process: ProgramProcess, *, closing: bool) -> Outcome:
    answer = str(process.transcript[-1].get("content") or "")
    if closing:
        return Outcome(EXIT_LIMIT, f"max_turns ({process.spec.max_turns}) reached", answer)
    return Outcome(EXIT_DONE, "done", answer)
