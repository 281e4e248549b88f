"""offline/demo as a copilot: an agent whose instructions name workers hands steps on files to them.

The instructions have a line `Workers: NAME, ...`; each file of a step becomes a task of the first
one, then all are collected.
"""

import json
import re
from dataclasses import replace
from typing import Any

from nexusfs.contracts.model import ModelCall
from nexusfs.services.llm.demo_plan import Step
from nexusfs.services.llm.demo_tools import find_tool
from nexusfs.services.llm.script import text_of

_WORKERS = re.compile(r"^Workers: *([a-z0-9-]+)", re.MULTILINE)
COLLECT = Step("collect")


def handed_out(plan: list[Step], call: ModelCall) -> list[Step]:
    """The plan, its steps on files done by workers where the instructions name any."""
    if not _worker_of(call) or find_tool("delegate", call.tools) is None:
        return plan
    steps: list[Step] = []
    for step in plan:
        if step.verb != "read":
            steps.append(step)
            continue
        word = "summarise" if step.summarise else "read"
        steps += [replace(step, verb="delegate", text=word, summarise=False), COLLECT]
    return steps


def handing(step: Step, target: str | None, call: ModelCall) -> dict[str, Any]:
    """The arguments of one delegation."""
    return {"message": f"{step.text} {target or '.'}", "worker": _worker_of(call)}


def collected(result: str) -> str:
    """What a collect gave, task by task."""
    try:
        tasks = json.loads(result)["tasks"]
    except (ValueError, KeyError, TypeError):
        return result
    parts = [
        f"task {row['task_id']} ({row['agent']}) is {row['state']}\n"
        f"{row.get('result') or row.get('question') or row.get('reason') or ''}"
        for row in tasks
    ]
    return "\n\n".join(parts)


def _worker_of(call: ModelCall) -> str:
    system = "\n".join(text_of(m) for m in call.messages if m.get("role") == "system")
    found = _WORKERS.search(system)
    return found[1] if found else ""
