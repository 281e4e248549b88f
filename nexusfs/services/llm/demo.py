"""offline/demo: a rule-driven stand-in that makes sensible tool calls for a few verbs.

It is no language model and its answers say so in their first line. A task is cut into clauses
(`then`, `;`, new lines, and a comma before a verb); each clause that a rule knows becomes a step of
one or more calls, made with whatever tools it is given, whose arguments are found by their schemas.
The step to make next is counted from the transcript, so that it has no state. After the last step
the results become an answer.
"""

from typing import Any

from nexusfs.contracts.model import Message, ModelCall
from nexusfs.contracts.task import NEWS_HEADING
from nexusfs.contracts.tool import new_call_id
from nexusfs.services.llm.demo_copilot import collected, handed_out, handing
from nexusfs.services.llm.demo_plan import VERBS, Step, plan_of
from nexusfs.services.llm.demo_tools import arguments_for, files_in, find_tool, paths_in
from nexusfs.services.llm.script import text_of

FIRST_LINE = "I am offline/demo, a rule-driven stand-in and not a language model."
RESULT_CHARS = 4000
SUMMARY_SENTENCES = 3


def demo_answer(call: ModelCall) -> Message:
    """The next assistant message: tool calls for the next step, or the answer."""
    users = [n for n, message in enumerate(call.messages) if _is_asked(message)]
    task = text_of(call.messages[users[-1]]) if users else ""
    since = call.messages[users[-1] + 1 :] if users else []
    plan = handed_out(plan_of(task), call)
    rounds = _rounds(since)
    notes: list[str] = []
    for number, step in enumerate(plan):
        if number < len(rounds):
            continue
        before = plan[number - 1] if number else None
        message, note = _calls_for(step, call, rounds, before)
        if message is not None:
            return message
        notes.append(note)
        rounds.append([])
    return {"content": _compose(task, plan, rounds, notes, call)}


def _is_asked(message: Message) -> bool:
    """True for what a person says; news of tasks are the kernel's."""
    said = text_of(message)
    return message.get("role") == "user" and not said.startswith(NEWS_HEADING)


def _rounds(since: list[Message]) -> list[list[str]]:
    """The results of each finished step, in call order."""
    rounds: list[list[str]] = []
    for message in since:
        if message.get("role") == "assistant":
            rounds.append([])
        elif message.get("role") == "tool" and rounds:
            rounds[-1].append(text_of(message))
    return rounds


def _calls_for(
    step: Step, call: ModelCall, rounds: list[list[str]], before: Step | None
) -> tuple[Message | None, str]:
    """(the message with the calls of one step, "") or (None, why there is none)."""
    tool = find_tool(step.verb, call.tools)
    if tool is None:
        return None, f"I have no tool to {step.verb} with."
    targets = step.targets
    if step.refers_back:
        targets = _targets_before(step, before, rounds)
        if not targets:
            return None, f"There was nothing to {step.verb}."
    made = []
    for target in targets or (None,):
        if step.verb == "delegate":
            arguments: dict[str, Any] | None = handing(step, target, call)
        else:
            arguments = arguments_for(tool, step, target)
        if arguments is None:
            return None, f"I cannot fill in what the tool {tool['name']} requires."
        made.append({"name": tool["name"], "arguments": arguments, "id": new_call_id()})
    return {"content": step.said(), "tool_calls": made}, ""


def _targets_before(step: Step, before: Step | None, rounds: list[list[str]]) -> tuple[str, ...]:
    """The paths that `it` or `them` means: those of the step before, or those in its results."""
    if before is not None and before.verb in ("write", "read") and before.targets:
        return before.targets
    results = "\n".join(rounds[-1] if rounds else [])
    if before is not None and before.verb == "list":
        return tuple(files_in(results, before.targets[0] if before.targets else "."))[: step.most]
    return tuple(paths_in(results)[: step.most])


def _compose(
    task: str, plan: list[Step], rounds: list[list[str]], notes: list[str], call: ModelCall
) -> str:
    """The answer: what was done, step by step, with the results."""
    lines = [FIRST_LINE]
    if not plan:
        names = ", ".join(tool["function"]["name"] for tool in call.tools) or "none"
        quoted = " ".join(task.split())[:200]
        lines += [
            f"I was asked: {quoted}",
            f"I understand: {'; '.join(VERBS.values())}.",
            f"Tools: {names}.",
        ]
    for step, results in zip(plan, rounds, strict=False):
        if step.verb == "delegate":
            continue  # what comes of it is in the collect after it
        for number, result in enumerate(results):
            lines.append(f"\n{step.heading(number)}")
            lines.append(_shown(step, result))
    return "\n".join(lines + notes)


def _shown(step: Step, result: str) -> str:
    if step.verb == "collect":
        return _short(collected(result))
    return summary_of(result) if step.summarise else _short(result)


def _short(text: str) -> str:
    text = text.rstrip()
    return (
        text
        if len(text) <= RESULT_CHARS
        else f"{text[:RESULT_CHARS]}\n[{len(text)} characters in all]"
    )


def summary_of(text: str) -> str:
    """The first sentences of a text and how long it is: the best that rules can do."""
    words = text.split()
    flat = " ".join(word for word in words if word.strip("#*=-_`>|"))
    sentences = flat.replace("? ", "?\n").replace("! ", "!\n").replace(". ", ".\n").split("\n")
    start = " ".join(sentences[:SUMMARY_SENTENCES])[:600]
    return f"{start}\n({len(text.splitlines())} lines, {len(words)} words)"
