"""What each kind of event does to a process; kinds that are not here only show in `events`."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.model import Message, Usage
from nexusfs.contracts.proc import ProcState
from nexusfs.kernel.proc.budget import Account, Totals
from nexusfs.kernel.proc.caveats import Caveat
from nexusfs.kernel.proc.question import Question
from nexusfs.kernel.tasks.inbox import Inbox
from nexusfs.kernel.tasks.task import Task

if TYPE_CHECKING:
    from nexusfs.kernel.proc.process import Process


def extend(process: "Process", message: Message) -> None:
    """Adds a message to the transcript, and keeps what is asked at each step up to date.

    So no step has to go through the transcript: the calls without a result, the ids in use and
    the rounds since the last input are known at any length.
    """
    process._transcript.append(message)
    process._messages.append(line_of(message) + b"\n")
    role = message["role"]
    if role == "tool":
        if process.open is not None:
            process.open.pop(message["tool_call_id"], None)
            if not process.open:
                process.open = process.intents = process.begun = None
        return
    if role != "assistant":
        return
    if message.get("content"):
        process._stdout.append(message["content"].encode("utf-8", "replace") + b"\n")
    calls = message.get("tool_calls")
    if calls:
        process.rounds += 1
        process.open = {call["id"]: call for call in calls}
        process.call_ids = process.call_ids or set()
        process.call_ids.update(process.open)


def line_of(value: dict[str, Any]) -> bytes:
    """A value as one line of JSON, without its end; lone surrogates of a provider become `?`."""
    try:
        return to_json(value)
    except ValueError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def _spawn(process: "Process", event: dict[str, Any]) -> None:
    process.started_at = event["time"]
    process.started_ns = event["time_ns"]
    process.state = ProcState.RUNNING
    process.nice = event.get("nice", 0)
    process.rights.caveats = caveats_of(event.get("caveats"), process.spec)
    process.account.started_ns = event["time_ns"]
    set_limits(process.account, event.get("limits", {}))
    delegated = event.get("delegated")
    if delegated is not None:
        process.task = Task(delegated)
    restored = event.get("restored")
    if restored is not None:
        _restored(process, restored)
    task = event["task"] if restored is not None else process.spec.task
    if task:
        process.mail.append(task)


def caveats_of(said: list[Any] | None, spec: AgentSpec) -> tuple[Caveat, ...]:
    """Caveats as events keep them; before there were any, the effective spec said it all."""
    return (
        (Caveat.of(spec).shared(),)
        if said is None
        else tuple(Caveat.of_line(to_json(one)) for one in said)
    )


def limits_of(account: Account) -> dict[str, Any]:
    """An account's own limits as events keep them."""
    return {**account.ceilings, **({"unknown_price": "allow"} if account.allows_unknown else {})}


def set_limits(account: Account, said: dict[str, Any]) -> None:
    """Sets them."""
    account.set_ceilings({n: value for n, value in said.items() if n != "unknown_price"})
    account.allows_unknown = "unknown_price" in said


def _limit(process: "Process", event: dict[str, Any]) -> None:
    ceilings = {**process.account.ceilings, event["name"]: event["value"]}
    process.account.set_ceilings({n: value for n, value in ceilings.items() if value is not None})


def _settled(process: "Process", event: dict[str, Any]) -> None:
    process.account.settle(Totals(**event["used"]))


def _restrict(process: "Process", event: dict[str, Any]) -> None:
    process.rights.add(Caveat.of_json(event["caveat"]))


def _reaped(process: "Process", event: dict[str, Any]) -> None:
    process.reaped = True


def _restored(process: "Process", state: dict[str, Any]) -> None:
    for message in state["transcript"]:
        extend(process, message)
    process.turns = state["turns"]
    process.rounds = state["rounds"]
    process.kept_from, process.summary = state["kept_from"], state["summary"]
    process.mail.extend(state["mail"])


def _state(process: "Process", event: dict[str, Any]) -> None:
    process.state = ProcState(event["to"])
    process.evicted = False


def _evicted(process: "Process", event: dict[str, Any]) -> None:
    process.state = ProcState.PAUSED
    process.evicted = True


def _message(process: "Process", event: dict[str, Any]) -> None:
    process.mail.append(event["text"])


def _input(process: "Process", event: dict[str, Any]) -> None:
    process.dropped = process.closing = False
    process.limit = ""
    process.rounds = process.asked_again = 0
    if process.mail:
        process.mail.pop(0)


def _news(process: "Process", event: dict[str, Any]) -> None:
    _seen(process, event)
    process.dropped = False
    if process.spec.mode == "chat" and not process.open:
        process.closing = False
        process.rounds = process.asked_again = 0


def _seen(process: "Process", event: dict[str, Any]) -> None:
    if process.inbox is None:
        process.inbox = Inbox()
    process.inbox.see(event["seen"])
    process.inbox.collected.update(event.get("ended", ()))


def _notice(process: "Process", event: dict[str, Any]) -> None:
    if event.get("about") == "output_schema":
        process.asked_again += 1
    else:
        process.closing = True
        process.limit = event.get("limit", "")


def _dropped(process: "Process", event: dict[str, Any]) -> None:
    process.dropped = True
    process.trouble = ""


def _turn_end(process: "Process", event: dict[str, Any]) -> None:
    process.turns += 1
    process.book(turns=1)


def _model_retry(process: "Process", event: dict[str, Any]) -> None:
    process.trouble = f"{event['model']}: {event['error']}; next attempt in {event['delay_s']:g} s"


def _model_reply(process: "Process", event: dict[str, Any]) -> None:
    process.trouble = ""
    _use(process, event["usage"])


def _trim(process: "Process", event: dict[str, Any]) -> None:
    process.kept_from, process.summary = event["kept_from"], event["summary"]
    if event["usage"] is not None:
        _use(process, event["usage"])


def _use(process: "Process", used: dict[str, Any]) -> None:
    cost_usd = used["cost_usd"]
    process.counts.model_calls += 1
    process.counts.usage += Usage(used["input_tokens"], used["output_tokens"], cost_usd)
    process.book(
        model_calls=1, input_tokens=used["input_tokens"], output_tokens=used["output_tokens"],
        cost_usd=cost_usd or 0.0, unpriced=cost_usd is None,
    )  # fmt: skip


def _tool_call(process: "Process", event: dict[str, Any]) -> None:
    _called(process, event)
    process.intents = process.intents or set()
    process.intents.add(event["id"])


def _question(process: "Process", event: dict[str, Any]) -> None:
    process.asked = process.asked or {}
    number = process.questions_asked = event["question"]
    process.asked[number] = Question(
        number, event["id"], event["tool"], event["arguments"], event["why"], event["time"]
    )


def _answer(process: "Process", event: dict[str, Any]) -> None:
    question = (process.asked or {}).get(event["question"])
    if question is not None:
        question.verdict, question.reason = event["verdict"], event["reason"]
        question.arguments = event["arguments"]


def _tool_result(process: "Process", event: dict[str, Any]) -> None:
    for number, question in list((process.asked or {}).items()):
        if question.call_id == event["id"]:
            del (process.asked or {})[number]


def _called(process: "Process", event: dict[str, Any]) -> None:
    process.counts.tool_calls += 1
    process.book(tool_calls=1)


def _tool_start(process: "Process", event: dict[str, Any]) -> None:
    process.begun = process.begun or set()
    process.begun.update(event["ids"])


def _nice(process: "Process", event: dict[str, Any]) -> None:
    process.nice = event["value"]


def _warning(process: "Process", event: dict[str, Any]) -> None:
    process.warnings += (event["text"],)


def _adopted(process: "Process", event: dict[str, Any]) -> None:
    process.parent_pid = event["ppid"]


def _resume(process: "Process", event: dict[str, Any]) -> None:
    process.trouble = ""


def _exit(process: "Process", event: dict[str, Any]) -> None:
    process.state = ProcState(event["state"])
    process.evicted = False
    process.exit_code = event["exit_code"]
    process.reason = event["reason"]
    process.result = event["result"]
    process.ended_at = event["time"]
    process.trouble = ""


FOLDS: dict[str, Callable[["Process", dict[str, Any]], None]] = {
    "spawn": _spawn,
    "state": _state,
    "evicted": _evicted,
    "message": _message,
    "input": _input,
    "news": _news,
    "collected": _seen,
    "notice": _notice,
    "turn_end": _turn_end,
    "model_retry": _model_retry,
    "model_reply": _model_reply,
    "trim": _trim,
    "tool_call": _tool_call,
    "tool_start": _tool_start,
    "nice": _nice,
    "warning": _warning,
    "adopted": _adopted,
    "question": _question,
    "answer": _answer,
    "tool_result": _tool_result,
    "dispatch": _called,
    "limit": _limit,
    "settled": _settled,
    "restrict": _restrict,
    "reaped": _reaped,
    "interrupted": _dropped,
    "model_error": _dropped,
    "resume": _resume,
    "exit": _exit,
}
