"""Processes from the journal, and snapshots of them for checkpoints."""

import json
from functools import partial
from typing import Any

from nexusfs.contracts.checkpoint import Snapshot
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.model import Message, Usage
from nexusfs.contracts.store import Journal
from nexusfs.kernel.proc.budget import Totals
from nexusfs.kernel.proc.fold import caveats_of, set_limits
from nexusfs.kernel.proc.kinds import spec_of
from nexusfs.kernel.proc.process import AFTER_THE_END, Counts, Process
from nexusfs.kernel.proc.steps import Host, answer_to

RESTORED = (
    "interrupted: the checkpoint was written before this call was done, its outcome is unknown"
)


def restored(journal: Journal, host: Host, pid: int) -> tuple[Process, int]:
    """A process as its journal says, and who spawned it. ValueError, KeyError, TypeError.

    The journal of one that has ended is read when somebody asks for its events: thousands are
    listed after a restart, and hardly one is looked into.
    """
    first, tail = journal.edges(pid)
    process = _beginning(journal, host, pid, json.loads(first))
    last = [json.loads(line) for line in tail]
    end = next((event for event in last if event["type"] == "exit"), None)
    if end is None or "totals" not in end:
        for line in journal.read(pid):
            process.apply(json.loads(line), line)
    else:
        _set_end(process, json.loads(first), end, last[-1])
        process.leave_unread(partial(journal.read, pid))
    if process.state.ended:
        process.close_streams()
    return process, json.loads(first)["ppid"]


def _set_end(
    process: Process, first: dict[str, Any], end: dict[str, Any], last: dict[str, Any]
) -> None:
    """What the whole fold would say of an ended process, from its first and last events.

    But for the transcript that a restored one began with: reading the journal brings that.
    """
    first = {name: value for name, value in first.items() if name != "restored"}
    for event in (first, end, *([last] if last["type"] in AFTER_THE_END else [])):
        process.fold(event)
    totals = end["totals"]
    process.mail.clear()
    process.parent_pid, process.nice = totals["ppid"], totals["nice"]
    process.warnings, process.turns = tuple(totals["warnings"]), totals["turns"]
    if process.task is not None:
        process.task.set_totals(totals["task"])
    used = Usage(totals["input_tokens"], totals["output_tokens"], totals["cost_usd"])
    set_limits(process.account, totals.get("limits", {}))
    process.account.settle(Totals(**totals.get("settled", {})))
    process.book(
        turns=process.turns, model_calls=totals["model_calls"], tool_calls=totals["tool_calls"],
        input_tokens=used.input_tokens, output_tokens=used.output_tokens,
        cost_usd=used.cost_usd or 0.0, unpriced=used.cost_usd is None,
    )  # fmt: skip
    process.rights.caveats = caveats_of(totals.get("caveats"), process.spec)
    process.counts = Counts(totals["model_calls"], totals["tool_calls"], used)


def _beginning(journal: Journal, host: Host, pid: int, first: dict[str, Any]) -> Process:
    """A process of which only the first event is known."""
    cred = Credentials(first["uid"], first["gid"], groups=frozenset(first["groups"]))
    spec = spec_of(first["spec"])
    process = Process(pid, first["ppid"], cred.as_agent(pid), spec, journal.append, host)
    process.warnings = tuple(first["warnings"])
    return process


def snapshot_of(process: Process) -> Snapshot:
    """The state of a process as it is now, which another can go on from."""
    return Snapshot(
        agent_id=process.agent_id,
        pid=process.pid,
        zone=process.spec.zone,
        spec=process.spec.to_dict(),
        turns=process.turns,
        rounds=process.rounds,
        kept_from=process.kept_from,
        summary=process.summary,
        transcript=list(process.transcript),
        mail=list(process.mail),
    )


def restored_fields(snapshot: Snapshot, task: str) -> dict[str, Any]:
    """What the `spawn` event of a restored process has beside the rest.

    Calls without a result get one in here: once the process is journaled, none runs again.
    """
    answers = [answer_to(call, RESTORED) for call in _open_calls(snapshot.transcript)]
    return {
        "task": task,
        "restored": {
            "turns": snapshot.turns,
            "rounds": snapshot.rounds,
            "kept_from": snapshot.kept_from,
            "summary": snapshot.summary,
            "transcript": [*snapshot.transcript, *answers],
            "mail": snapshot.mail,
        },
    }


def _open_calls(transcript: list[Message]) -> list[dict[str, Any]]:
    """The calls at the end of a transcript that have no result."""
    answered: set[str] = set()
    for message in reversed(transcript):
        if message["role"] != "tool":
            calls = message.get("tool_calls") or ()
            return [call for call in calls if call["id"] not in answered]
        answered.add(message["tool_call_id"])
    return []
