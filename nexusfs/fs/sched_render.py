"""What sys/sched says: slots, classes, owners, who holds a slot, who waits, who made room."""

import json
from collections.abc import Iterator
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.proc import Priority
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.sched.claim import Claim

SHOWN = 1000
"""So many agents that wait are listed, those first that wait longest; the rest is a number."""


def sched(processes: ProcessTable, cred: Credentials) -> bytes:
    """JSON Lines; an agent is shown agents of its own zone alone."""
    rows = _rows(processes, cred, trio.current_time())
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rows(processes: ProcessTable, cred: Credentials, now_s: float) -> Iterator[dict[str, Any]]:
    slots, room = processes.host.slots, processes.host.room
    waiting = sorted(slots.claims(), key=lambda claim: claim.since_s)
    yield {
        "slots": slots.total, "slots_per_owner": slots.per_owner, "in_use": slots.in_use,
        "queue": slots.waiting + len(room.expected), "queue_max": room.queue_max,
        "residents": room.residents, "resident_max": room.resident_max,
        "evicted": len(room.evicted),
    }  # fmt: skip
    for priority in Priority:
        waits_s = [now_s - claim.since_s for claim in waiting if claim.priority is priority]
        holding = sum(claim.priority is priority for claim in slots.held)
        longest_s = round(max(waits_s, default=0), 3)
        yield {"class": priority.word, "number": int(priority), "in_use": holding,
               "waiting": len(waits_s), "longest_wait_s": longest_s}  # fmt: skip
    for owner in slots.owners.values():
        yield {"owner": owner.uid, "in_use": owner.held, "waiting": owner.waiting,
               "usual_call_s": round(owner.call_s, 3)}  # fmt: skip

    def shown(pid: int) -> bool:
        process = processes.find(pid)
        return process is not None and processes.visible(cred, process)

    yield from (_of_agent("holds", claim, now_s) for claim in slots.held if shown(claim.pid))
    listed = [claim for claim in waiting if shown(claim.pid)]
    yield from (_of_agent("waits", claim, now_s) for claim in listed[:SHOWN])
    if len(listed) > SHOWN:
        yield {"state": "waits", "left_out": len(listed) - SHOWN}
    yield from ({"state": "evicted", "pid": pid} for pid in room.evicted if shown(pid))


def _of_agent(state: str, claim: Claim, now_s: float) -> dict[str, Any]:
    return {
        "state": state, "pid": claim.pid, "owner": claim.owner, "class": claim.priority.word,
        "nice": claim.nice, "seconds": round(now_s - claim.since_s, 3),
    }  # fmt: skip
