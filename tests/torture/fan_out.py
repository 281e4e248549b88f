"""A copilot that hands 20 tasks out, and people who do; the daemon is killed all the time.

What must hold: the copilot comes to its end, every task ends once, a tool that may not be repeated
was not, and no task is there twice.
"""

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuse.shell import read, request, until
from tests.torture.agents import LIFE_S, Field, kill_daemon
from tests.torture.part import PartFailedError, Plan

WORKERS = 20
KILLS = 200
FINAL = {"completed", "failed", "canceled", "rejected"}
CUT_OFF = "interrupted"


class FanOut:
    """One copilot with its script, and the same number of tasks of people."""

    def __init__(self, ground: Field, number: int) -> None:
        self.ground = ground
        self.number = number
        self.people: list[int] = []
        self.asked = 0

    def start(self, mnt: Path) -> None:
        """Spawns the copilot; people delegate as they can."""
        worker = {"model": f"offline/script:{self._script('worker', self._worker_turns())}"}
        calls = [
            {"name": "delegate", "arguments": {"message": f"do {n}", "worker": worker}}
            for n in range(WORKERS)
        ]
        turns: list[dict[str, Any]] = [
            {"tool_calls": calls},
            {"tool_calls": [{"name": "collect", "arguments": {}}]},
            {"content": "all is done"},
        ]
        spec = {"model": f"offline/script:{self._script('copilot', turns)}", "task": "go"}
        failed, text = request(mnt / "proc/spawn", spec)
        assert not failed, text
        self.copilot = int(text)

    def _script(self, name: str, turns: list[dict[str, Any]]) -> Path:
        path = self.ground.directory / f"{name}-{self.number}.json"
        if name == "worker":
            marks = [{"match": f"do {n}", "turns": self._marked(turns, n)} for n in range(99)]
            path.write_text(json.dumps({"conversations": marks[::-1]}))
        else:
            path.write_text(json.dumps(turns))
        return path

    def _worker_turns(self) -> list[dict[str, Any]]:
        delay_s = self.ground.chance.random() / 50
        arguments = {"delay_s": delay_s}
        return [
            {"tool_calls": [{"name": tool, "arguments": arguments}], "delay_s": delay_s}
            for tool in ("once", "again", "once")
        ]

    def _marked(self, turns: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
        """The turns with marks that no other worker has."""
        marked = []
        for at, turn in enumerate(turns):
            (call,) = turn["tool_calls"]
            mark = f"{self.number}.{n}.{at}"
            told = {**call, "arguments": {**call["arguments"], "mark": mark}}
            marked.append({**turn, "tool_calls": [told]})
        return [*marked, {"content": f"done {n}"}]

    def delegate(self, mnt: Path, count: int) -> None:
        """Tasks of people, each by a key, as one does who may be cut off."""
        worker = {"model": f"offline/script:{self.ground.directory}/worker-{self.number}.json"}
        for _ in range(count):
            if self.asked == WORKERS:
                return
            n = WORKERS + self.asked
            key = f"{self.number}-{n}"
            asked = {"message": f"do {n}", "worker": worker, "idempotency_key": key}
            failed, text = request(mnt / "proc/1/delegate", asked)
            assert not failed, text
            self.people.append(json.loads(text)["task_id"])
            self.asked += 1

    def is_over(self, mnt: Path) -> bool:
        """True when the copilot has ended, and all tasks of people have."""
        if self.asked < WORKERS or not read(mnt, self.copilot, "exit_code"):
            return False
        return all(_state(mnt, 1, task) in FINAL for task in self.people)

    def faults(self, mnt: Path) -> list[str]:
        """What does not hold of it."""
        found = []
        if read(mnt, self.copilot, "result") != "all is done\n":
            found.append(f"copilot {self.copilot}: {read(mnt, self.copilot, 'status')}")
        tasks = [int(name.name) for name in (mnt / f"proc/{self.copilot}/tasks").iterdir()]
        transcript = read(mnt, self.copilot, "messages.jsonl")
        lost = sum(
            json.loads(line).get("content", "").startswith(CUT_OFF)
            for line in transcript.splitlines()
            if json.loads(line).get("name") == "delegate"
        )
        if not WORKERS - lost <= len(tasks) <= WORKERS:
            found.append(f"{len(tasks)} tasks of {WORKERS} delegations, {lost} of them cut off")
        if len(set(self.people)) != WORKERS:
            found.append(f"{len(set(self.people))} tasks of people")
        for copilot, ids in ((self.copilot, tasks), (1, self.people)):
            found += [fault for task in ids for fault in _task_faults(mnt, copilot, task)]
        return found + self._repeated()

    def _repeated(self) -> list[str]:
        trace = (self.ground.directory / "trace").read_text().splitlines()
        done = Counter(line.split()[1] for line in trace if line.startswith("once"))
        return [f"{mark} was repeated {count} times" for mark, count in done.items() if count > 1]


def _state(mnt: Path, copilot: int, task: int) -> str:
    return (mnt / f"proc/{copilot}/tasks/{task}/status").read_text().strip()


def _task_faults(mnt: Path, copilot: int, task: int) -> list[str]:
    """A task ends once, its events are in order, and it completes."""
    text = (mnt / f"proc/{copilot}/tasks/{task}/events").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    found = []
    if [row["seq"] for row in rows] != list(range(1, len(rows) + 1)):
        found.append(f"task {task}: events out of order")
    ends = [row["state"] for row in rows if row.get("state") in FINAL]
    if ends != ["completed"] or _state(mnt, copilot, task) != "completed":
        found.append(f"task {task}: ends {ends}, is {_state(mnt, copilot, task)}")
    return found


def fan_out(kills: int, seed: int) -> tuple[bool, str]:
    """The daemon is killed so many times in the middle of fan-outs; then all end."""
    with tempfile.TemporaryDirectory(prefix="nexusfs-torture-") as made:
        ground = Field(Path(made), random.Random(seed))
        rounds: list[FanOut] = []
        cuts = 0
        try:
            mnt = ground.mount()
            while cuts < kills:
                if not rounds or rounds[-1].is_over(mnt):
                    rounds.append(FanOut(ground, len(rounds)))
                    rounds[-1].start(mnt)
                rounds[-1].delegate(mnt, ground.chance.randint(0, 9))
                time.sleep(ground.chance.random() * LIFE_S / 2)
                kill_daemon(ground, mnt)
                cuts += 1
                mnt = ground.mount()
            rounds[-1].delegate(mnt, WORKERS)
            until(_over(rounds[-1], mnt), 120)
            faults = [fault for one in rounds for fault in one.faults(mnt)]
        finally:
            ground.mounts.close()
    line = f"{cuts} kills, {len(rounds)} fan-outs of 2 x {WORKERS} tasks; {len(faults)} faults"
    return not faults, "; ".join([line, *faults[:5]])


def fan_out_part(plan: Plan) -> str:
    """The same as a part of `python -m tests.torture`."""
    held, line = fan_out(KILLS, plan.seed)
    if not held:
        raise PartFailedError(line)
    return line


def _over(one: FanOut, mnt: Path) -> Callable[[], bool]:
    return lambda: one.is_over(mnt)
