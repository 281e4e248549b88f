"""What a step costs the kernel at turn 10 and at turn 1,000: the model and the tool take no time.

`python -m tests.bench.steps STORE` prints JSON: microseconds of a turn, and of its journal records.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import trio

from nexusfs.contracts.agent import AgentLoopConfig, parse_spec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.model import Message, ModelCall, ModelReply, Quote, Usage
from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.drivers.journal_sqlite import SqliteJournal
from nexusfs.drivers.sqlite import Database
from nexusfs.fs import proc_render
from nexusfs.kernel.proc.process import Process
from nexusfs.services.agent.loop import Loop, Ports
from nexusfs.services.agent.seams import NoHome
from tests.kernel_fixture import BareDispatcher

LAST = 1100
MEASURED = 200
"""The last turns of the long agent, each beside a turn of one that is young again after YOUNG."""
YOUNG = range(5, 16)


class Instant:
    """Wants the tool each time, at once."""

    def __init__(self) -> None:
        self._calls = 0

    async def complete(self, call: ModelCall, observer: Any) -> ModelReply:
        self._calls += 1
        arguments = json.dumps({"text": "x" * 200})
        function = {"name": "note", "arguments": arguments}
        wanted = {"id": f"call_{self._calls}", "type": "function", "function": function}
        message: Message = {"role": "assistant", "content": "y" * 200, "tool_calls": [wanted]}
        return ModelReply(message, Usage(100, 50, 0.0), call.model)

    async def quote(self, call: ModelCall) -> Quote:
        return Quote(call.model, 0)

    def available(self) -> list[dict[str, Any]]:
        return []


@tool(read_only=True, idempotent=True)
async def note(ctx: ToolContext, text: str) -> str:
    """Say how long a text is."""
    return f"{len(text)} characters, " + "z" * 300


class Agent:
    """One agent with a journal of its own, whose turns are timed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._journal = SqliteJournal(Database(directory / "journal.sqlite"))
        self._journal_s = 0.0
        spec = parse_spec({"task": "go", "max_turns": 10_000})
        self.process = Process(2, 1, Credentials(0, 0).as_agent(2), spec, self._append)
        self.process.record("state", **{"from": "created", "to": "running"})
        self.process.post("go", "task")
        config = AgentLoopConfig(max_turns=10_000, max_context_tokens=8000)
        self._loop = Loop(self.process, Ports(Instant(), BareDispatcher(note), NoHome()), config)

    def _append(self, pid: int, line: bytes) -> None:
        began = time.perf_counter()
        self._journal.append(pid, line)
        self._journal_s += time.perf_counter() - began

    async def step(self) -> dict[str, float]:
        """Seconds of one turn, of its journal records, and of showing status and usage."""
        self._journal_s, began = 0.0, time.perf_counter()
        await self._loop.step()
        turn = time.perf_counter() - began
        began = time.perf_counter()
        proc_render.status(self.process)
        proc_render.usage(self.process)
        shown = time.perf_counter() - began
        return {"turn": turn, "journal": self._journal_s, "status": shown}


async def run(directory: Path) -> dict[str, Any]:
    old = Agent(directory / "old")
    for _ in range(LAST - MEASURED):
        await old.step()
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(MEASURED):
        if number % len(YOUNG) == 0:
            young = Agent(directory / f"young-{number}")
            for _ in range(YOUNG.start):
                await young.step()
        for turn, agent in (("1000", old), ("10", young)):
            for name, seconds in (await agent.step()).items():
                found.setdefault(name, {}).setdefault(turn, []).append(seconds * 1e6)
    return {
        name: {turn: statistics.median(taken) for turn, taken in turns.items()}
        for name, turns in found.items()
    }


if __name__ == "__main__":
    print(json.dumps(trio.run(run, Path(sys.argv[1]))))
