"""Processes from the journal, and snapshots of them for checkpoints."""

import json
from typing import Any

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.checkpoint import Snapshot
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.store import Journal
from nexusfs.kernel.proc.narrow import narrowed
from nexusfs.kernel.proc.process import Host, Process


def folded(journal: Journal, host: Host, pid: int, lines: list[bytes]) -> Process:
    """The process whose journal the lines are. ValueError, KeyError, TypeError."""
    first = json.loads(lines[0])
    cred = Credentials(first["uid"], first["gid"], groups=frozenset(first["groups"]))
    spec = AgentSpec.model_validate_json(json.dumps(first["spec"]))
    process = Process(pid, first["ppid"], cred.as_agent(pid), spec, journal.append, host)
    process.rights = narrowed(tuple(first["rights"]))
    process.warnings = tuple(first["warnings"])
    for line in lines:
        process.apply(json.loads(line), line)
    if process.state.ended:
        process.close_streams()
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
    """What the `spawn` event of a restored process has beside the rest."""
    return {
        "task": task,
        "restored": {
            "turns": snapshot.turns,
            "rounds": snapshot.rounds,
            "kept_from": snapshot.kept_from,
            "summary": snapshot.summary,
            "transcript": snapshot.transcript,
            "mail": snapshot.mail,
        },
    }
