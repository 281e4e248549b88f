"""Questions to people: what a call of an agent's tool comes to, by its rules, and the wait for it.

Rules are evaluated deny → ask → allow, first match; what none matches goes by the mode. Each caveat
of the chain says its own, and the policy of /etc; the strictest holds, so that no child is freer
than who spawned it. A question is journaled, and so is its answer: both survive a restart, and a
call that runs again finds its answer. Only people answer.

Concurrency: in the trio thread. `decide` suspends while a question waits; cancelling it leaves the
question of a call that the model wants, which runs again, and takes back any other.
"""

import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    InvalidError,
    KernelError,
    NotFoundError,
    NotPermittedError,
)
from nexusfs.contracts.rights import ALLOW, ASK, DENY, Rules
from nexusfs.contracts.tool import EXTERNAL_EFFECT, LABELS, Tool
from nexusfs.kernel.arguments import validate_arguments_async
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.question import Question

APPROVE, MODIFY, WITHDRAWN = "approve", "modify", "withdrawn"
_PATTERN = re.compile(r"([^()]+)(?:\((.*)\))?", re.S)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`allow`, `ask` or `deny`, and what says so."""

    effect: str
    why: str = ""


ALLOWED = Verdict(ALLOW)


class Approvals:
    """Decides calls of agents, and takes the answers of people."""

    def __init__(
        self, find: Callable[[int], Process | None], tools: Callable[[], list[Tool]]
    ) -> None:
        """`find` a process by pid; `tools` are all registered ones. Boot sets the rest."""
        self._find = find
        self._tools = tools
        self.policy: Callable[[], Awaitable[Rules]] = _no_policy
        self.all_three = ASK

    async def decide(
        self, cred: Credentials, tool: Tool, arguments: dict[str, Any], call_id: str,
        *, wait: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """The arguments with which a call may run; people's calls always may.

        Without `wait` a question is asked, and nobody waits for its answer.

        Raises:
            AccessError: EACCES, denied by a rule or a person; says which.
            InvalidError: EINVAL, a person would be asked, and the arguments do not fit.

        Suspends, with wchan `approval`, while a question has no answer.
        """
        pid = cred.agent_pid
        process = self._find(pid) if pid else None
        if process is None:
            return arguments
        question = process.question_of(call_id) if process.asked else None
        if question is None:
            verdict = await self._verdict(process, tool, arguments)
            if verdict.effect == ALLOW:
                return arguments
            if verdict.effect == DENY:
                raise AccessError(f"{tool.name} is denied by {verdict.why}")
            # Nobody is asked about a mistake.
            await validate_arguments_async(tool.input_schema, arguments, tool.fits)
            question = process.ask(call_id, tool.name, arguments, verdict.why)
        if not wait:
            return arguments
        try:
            await process.answered(question)
        except trio.Cancelled:
            _withdraw(process, question)
            raise
        process.drop_question(question)
        if question.verdict == DENY:
            said = f": {question.reason}" if question.reason else ""
            raise AccessError(f"{tool.name} is denied by a person{said}")
        return question.arguments

    async def _verdict(self, process: Process, tool: Tool, arguments: dict[str, Any]) -> Verdict:
        """The strictest of what all rules say."""
        found = [_verdict_of(await self.policy(), tool, arguments, "the policy of /etc")]
        for pid, rules in process.rights.rules():
            found.append(_verdict_of(rules, tool, arguments, f"a rule of agent {pid}"))
        found.append(self._verdict_of_labels(process, tool))
        if all(one is ALLOWED for one in found):
            return ALLOWED
        return max(found, key=lambda one: (ALLOW, ASK, DENY).index(one.effect))

    def _verdict_of_labels(self, process: Process, tool: Tool) -> Verdict:
        """Who reads what strangers wrote, and what is private, may not tell it on by himself."""
        if EXTERNAL_EFFECT not in tool.labels or process.spec.mode == "chat":
            return ALLOWED
        held = {
            label
            for one in self._tools()
            if process.rights.may_use(one.name)
            for label in one.labels
        }
        if held < LABELS:
            return ALLOWED
        return Verdict(self.all_three, f"its tools together: {', '.join(sorted(LABELS))}")

    # -- people

    def pending(self, process: Process) -> list[Question]:
        """The questions of a process that have no answer."""
        return [] if process.state.ended else [q for q in process.questions() if not q.verdict]

    async def answer(self, cred: Credentials, process: Process, number: int, line: str) -> None:
        """`approve`, `deny [reason]` or `modify {arguments}`.

        Raises:
            NotFoundError: ENOENT, nothing of that number waits.
            NotPermittedError: EPERM, an agent answers, or somebody else than the owner.
            InvalidError: EINVAL, another word, or arguments that do not fit.
        """
        if cred.agent_pid:
            raise NotPermittedError("an agent answers no question: a person does")
        if cred.uid not in (0, process.cred.uid):
            raise NotPermittedError(f"agent {process.pid} is not yours")
        question = self._waiting(process, number)
        word, _, rest = line.strip().partition(" ")
        arguments = question.arguments
        if word == MODIFY:
            arguments = await self._arguments(question.tool, rest)
            self._waiting(process, number)  # somebody else may have answered meanwhile
        elif word not in (APPROVE, DENY) or (word == APPROVE and rest.strip()):
            raise InvalidError(
                f"write approve, deny [reason] or modify {{arguments}} (given {line[:60]!r})"
            )
        process.record(
            "answer", question=number, verdict=word, by=cred.uid,
            reason=rest.strip() if word == DENY else "", arguments=arguments,
        )  # fmt: skip
        process.wake_answered()

    def _waiting(self, process: Process, number: int) -> Question:
        """A question without an answer. NotFoundError ENOENT."""
        for question in self.pending(process):
            if question.number == number:
                return question
        raise NotFoundError(f"no question {number} of agent {process.pid} waits")

    async def _arguments(self, name: str, text: str) -> dict[str, Any]:
        try:
            arguments = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise InvalidError(f"modify takes the arguments as a JSON object: {exc}") from None
        if not isinstance(arguments, dict):
            raise InvalidError('modify takes the arguments as a JSON object: modify {"path": "/x"}')
        tool = next((one for one in self._tools() if one.name == name), None)
        if tool is not None:
            await validate_arguments_async(tool.input_schema, arguments, tool.fits)
        return arguments


def _withdraw(process: Process, question: Question) -> None:
    """Takes back a question whose caller gave up; the model's own calls wait on, see `Calls`."""
    if question.verdict or process.state.ended or question.call_id in (process.open or ()):
        return
    with contextlib.suppress(KernelError):
        process.record(
            "answer", question=question.number, verdict=WITHDRAWN, by=process.cred.uid,
            reason="its caller gave up", arguments=question.arguments,
        )  # fmt: skip
    process.drop_question(question)


def _verdict_of(rules: Rules, tool: Tool, arguments: dict[str, Any], whose: str) -> Verdict:
    """What one set of rules says of a call."""
    if rules.mode == ALLOW and not (rules.deny or rules.ask):
        return ALLOWED
    for effect in (DENY, ASK, ALLOW):
        for pattern in getattr(rules, effect):
            if _matches(pattern, tool, arguments, strict=effect != ALLOW):
                return Verdict(effect, f"{whose}: {effect} {pattern}")
    if rules.mode != ALLOW and not tool.read_only:
        return Verdict(rules.mode, f"{whose}: permission_mode {rules.mode}")
    return ALLOWED


def _matches(pattern: str, tool: Tool, arguments: dict[str, Any], *, strict: bool) -> bool:
    """`tool`, or `tool(glob)` over its main argument; a `strict` one fits by any argument."""
    found = _PATTERN.fullmatch(pattern)
    if found is None or not fnmatchcase(tool.name, found[1]):
        return False
    if found[2] is None:
        return True
    main = (tool.input_schema.get("required") or [""])[0]
    names = list(arguments) if strict else [main]
    return any(fnmatchcase(_text(arguments.get(name)), found[2]) for name in names)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


async def _no_policy() -> Rules:
    return Rules.model_validate({})
