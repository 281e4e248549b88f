"""What the files of proc/<pid>/ say, from a process to bytes."""

import json
from collections.abc import Iterable
from typing import Any

from nexusfs.contracts.limits import LIMITS, shown
from nexusfs.contracts.model import Usage
from nexusfs.contracts.proc import KERNEL_PID
from nexusfs.contracts.sandbox import SandboxKind
from nexusfs.contracts.times import ns_of
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.proc.process import Process


def fields(process: Process, sandbox: SandboxKind = "off") -> dict[str, Any]:
    """What status shows, by key, in the order that is only ever appended to.

    `sandbox` is what would hold a program of the agent.
    """
    used = process.counts.usage
    return {
        "Name": process.agent_id,
        "State": f"{process.state.letter} ({process.state})",
        "Pid": process.pid,
        "PPid": process.parent_pid,
        "Uid": process.cred.uid,
        "Gid": process.cred.gid,
        "Zone": process.spec.zone,
        "Agent": process.installed or "",
        "Model": process.spec.model,
        "Turns": process.turns,
        "ToolCalls": process.counts.tool_calls,
        "InputTokens": used.input_tokens,
        "OutputTokens": used.output_tokens,
        "CostUSD": _cost(used),
        "Wchan": process.wchan,
        "Sandbox": sandbox,
        "Started": process.started_at,
        "Ended": process.ended_at,
        "ExitCode": "" if process.exit_code is None else process.exit_code,
        "Reason": (process.reason or process.trouble).replace("\n", " "),
        "Priority": process.spec.priority,
        "Nice": process.nice,
    }


def status(process: Process, sandbox: SandboxKind = "off") -> bytes:
    """`Key:<tab>value` lines."""
    return _lines(fields(process, sandbox))


def status_json(process: Process, sandbox: SandboxKind = "off") -> bytes:
    """The same for machines, and more."""
    used = process.counts.usage
    body = {
        **{key.lower(): value for key, value in fields(process, sandbox).items()},
        "state": str(process.state),
        "exitcode": process.exit_code,
        "costusd": used.cost_usd,
        "agent_id": process.agent_id,
        "turn_count": process.turns,
        "mode": process.spec.mode,
        "life": process.spec.life,
        "model_calls": process.counts.model_calls,
        "children": sorted(process.children),
        "labels": process.spec.labels,
        "metadata": process.spec.metadata,
        "warnings": list(process.warnings),
    }
    return as_json(body)


def spec(process: Process) -> bytes:
    """The effective spec as it can be spawned again."""
    return as_json(process.spec.to_dict())


def exit_line(process: Process) -> bytes | None:
    """`<pid> <exit_code> <reason>`, or None while the process lives."""
    if not process.state.ended:
        return None
    return (
        f"{process.pid} {process.exit_code} {process.reason}".replace("\n", " ").encode(
            "utf-8", "replace"
        )
        + b"\n"
    )


def result(process: Process) -> bytes:
    """The final answer; empty until the end."""
    text = process.result.encode("utf-8", "replace")
    return text + b"\n" if text and not text.endswith(b"\n") else text


def exit_code(process: Process) -> bytes:
    """The exit code; empty until the end."""
    return b"" if process.exit_code is None else b"%d\n" % process.exit_code


def wchan(process: Process) -> bytes:
    """What the process waits for."""
    return process.wchan.encode("utf-8", "replace") + b"\n"


def usage(process: Process) -> bytes:
    """Flat-keyed counters: its own, those of it and all below it, and what is left of limits."""
    counts, used = process.counts, process.counts.usage
    ended_ns = ns_of(process.ended_at) if process.ended_at else now_ns()
    below, account = process.account.used, process.account
    seconds = f"{max(ended_ns - process.started_ns, 0) / 1e9:.3f}"
    flat = {
        "turns": process.turns,
        "model_calls": counts.model_calls,
        "tool_calls": counts.tool_calls,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cost_usd": _cost(used),
        "wall_seconds": seconds,
        "subtree.turns": below.turns,
        "subtree.model_calls": below.model_calls,
        "subtree.tool_calls": below.tool_calls,
        "subtree.input_tokens": below.input_tokens,
        "subtree.output_tokens": below.output_tokens,
        "subtree.cost_usd": "unknown" if below.unpriced else f"{below.cost_usd:.6f}",
        "subtree.wall_seconds": seconds,
    }
    for name in LIMITS:
        left = account.left(name)
        if left is not None:
            flat[f"remaining.{name}"] = shown(left)
    return "".join(f"{key} {value}\n" for key, value in flat.items()).encode()


def limit(name: str, process: Process) -> bytes:
    """The ceiling that holds, its own or one above it: one value, or `max`."""
    return shown(process.account.ceiling(name)).encode() + b"\n"


def pids(numbers: Iterable[int]) -> bytes:
    """Pids, space separated."""
    return " ".join(str(pid) for pid in sorted(numbers)).encode() + b"\n"


def kernel_status(uid: int) -> bytes:
    """The status of pid 1."""
    return _lines(
        {"Name": "kernel", "State": "R (running)", "Pid": KERNEL_PID, "PPid": 0, "Uid": uid}
    )


def _cost(used: Usage) -> str:
    return "unknown" if used.cost_usd is None else f"{used.cost_usd:.6f}"


def _lines(pairs: dict[str, Any]) -> bytes:
    return "".join(f"{key}:\t{value}\n" for key, value in pairs.items()).encode("utf-8", "replace")


def as_json(value: Any) -> bytes:
    """A value as people read JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
