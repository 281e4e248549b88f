"""`python -m tests.torture.agents [NAME…] [--seed N] [--kills N]`: agents that are cut for long.

kill     the daemon is killed with SIGKILL at random points of runs of 20 agents
umount   the same, unmounted
worker   the model worker is killed instead, and the models are behind real HTTP
provider a provider that hangs, cuts, answers garbage, 429s and loses its key (see provider.py)

Each prints one line and returns whether it held: no finished call repeated, none lost, no history
that a provider would refuse, and every agent at its end.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexusfs.contracts.times import ns_of
from nexusfs.services.llm.mock_history import history_fault
from tests.fuse.conftest import Mounts
from tests.fuse.shell import ctl, daemon, read, request, until
from tests.torture.part import Part, PartFailedError, Plan
from tests.torture.provider import PROVIDER_CALLS, Provider, endpoint, provider

PLUGINS = Path(__file__).parent / "plugins"
AGENTS = 20
TURNS = 12
LIFE_S = 0.5
"""A daemon lives up to so long before it is cut."""
SLACK_NS = 20_000_000
"""Times of events are in ms, and an effect is a moment before its result."""


@dataclass
class Field:
    """A store that is mounted over and over, the trace of its tools, and what the agents play."""

    directory: Path
    chance: random.Random
    mounts: Mounts = field(init=False)
    plans: dict[int, list[list[tuple[str, str]]]] = field(default_factory=dict)
    batches: int = 0
    cuts: int = 0
    calls: int = 0
    unknown: int = 0
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is mounted yet."""
        self.mounts = Mounts(self.directory)
        self.environment = {
            "PYTHONPATH": str(PLUGINS),
            "NEXUSFS_TOOL_MODULES": '["trace_tools"]',
            "NEXUSFS_TRACE": str(self.directory / "trace"),
            "NEXUSFS_RETAIN_COUNT": "100000",
            "NEXUSFS_STOP_GRACE_S": "1",
        }
        (self.directory / "trace").touch()

    def mount(self) -> Path:
        """The store, mounted."""
        return self.mounts.mount(env=self.environment)

    def plan(self, name: str) -> list[list[tuple[str, str]]]:
        """Random turns of calls: (tool, mark) each, marks used once in all the store."""
        turns = []
        for turn in range(self.chance.randint(3, TURNS)):
            count = self.chance.choice((1, 1, 2, 4))
            tools = self.chance.choices(("once", "again", "look"), (3, 1, 2), k=count)
            turns.append([(tool, f"{name}.{turn}.{n}") for n, tool in enumerate(tools)])
        return turns

    def start(self, mnt: Path, model: Callable[[str, Path], dict[str, Any]]) -> None:
        """Spawns a batch of agents, each with a script of its own."""
        self.batches += 1
        for number in range(AGENTS):
            name = f"a{self.batches}-{number}"
            plan = self.plan(name)
            spec = model(name, self._script(name, plan))
            failed, text = request(mnt / "proc/spawn", {"name": name, "task": name, **spec})
            assert not failed, text
            self.plans[int(text)] = plan

    def _script(self, name: str, plan: list[list[tuple[str, str]]]) -> Path:
        turns: list[dict[str, Any]] = []
        for calls in plan:
            asked = [
                {"name": tool, "arguments": {"mark": mark, "delay_s": self.chance.random() / 50}}
                for tool, mark in calls
            ]
            turns.append({"tool_calls": asked, "delay_s": self.chance.random() / 50})
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps([*turns, {"content": f"the end of {name}"}]))
        return path

    def running(self, mnt: Path) -> list[int]:
        """Agents of the batch that have not ended."""
        return [pid for pid in self.plans if not read(mnt, pid, "exit_code")]

    # -- what must hold

    def close_batch(self, mnt: Path) -> None:
        """Notes what does not hold of the batch, which has ended, and reaps it."""
        self.found += self._faults(mnt)
        self.calls += sum(len(turn) for plan in self.plans.values() for turn in plan)
        for pid in self.plans:
            self.unknown += read(mnt, pid, "events").count('"error":"interrupted')
            ctl(mnt, pid, "reap")
        self.plans.clear()

    def _faults(self, mnt: Path) -> list[str]:
        done, times = Counter[str](), dict[str, list[int]]()
        for line in (self.directory / "trace").read_text().splitlines():
            _, mark, ns = line.split()
            done[mark] += 1
            times.setdefault(mark, []).append(int(ns))
        found: list[str] = []
        for pid, plan in self.plans.items():
            found += self._faults_of(mnt, pid, plan, done, times)
        return found

    def _faults_of(
        self, mnt: Path, pid: int, plan: list[list[tuple[str, str]]], done: Counter[str],
        times: dict[str, list[int]],
    ) -> list[str]:  # fmt: skip
        found = []
        if read(mnt, pid, "exit_code") != "0\n":
            found.append(f"{pid} ended with {read(mnt, pid, 'status').splitlines()[18:20]}")
        messages = [json.loads(line) for line in read(mnt, pid, "messages.jsonl").splitlines()]
        fault = history_fault(messages)
        if fault is not None:
            found.append(f"{pid} has a history that is refused: {fault}")
        results = [e for e in _events(mnt, pid) if e["type"] == "tool_result"]
        marks = [mark for calls in plan for mark in calls]
        if len(results) != len(marks):
            found.append(f"{pid} has {len(results)} results of {len(marks)} calls")
        for (tool, mark), result in zip(marks, results, strict=False):
            said, count = result["message"]["content"], done[mark]
            unknown = said.startswith("interrupted")
            if not unknown and (said != f"{tool} {mark}" or count == 0):
                found.append(f"{pid} {mark} was lost: {said!r}, {count} effects")
            if tool == "once" and count > 1:
                found.append(f"{pid} {mark} was repeated {count} times")
            if tool != "once" and unknown:
                found.append(f"{pid} {mark} was given up")
            late = [ns for ns in times.get(mark, ()) if ns > ns_of(result["time"]) + SLACK_NS]
            if late:
                found.append(f"{pid} {mark} ran again after its result was journaled")
        return found


def _events(mnt: Path, pid: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read(mnt, pid, "events").splitlines()]


def offline(name: str, script: Path) -> dict[str, Any]:
    """An agent whose model plays its script in process."""
    return {"model": f"offline/script:{script}"}


def cut_daemon(cut: Callable[[Field, Path], None], kills: int, seed: int) -> tuple[bool, str]:
    """Cuts the daemon so many times, over as many batches as that takes; then lets all end."""
    with tempfile.TemporaryDirectory(prefix="nexusfs-torture-") as made:
        ground = Field(Path(made), random.Random(seed))
        try:
            mnt = ground.mount()
            while ground.cuts < kills:
                if not ground.running(mnt):
                    ground.close_batch(mnt)
                    ground.start(mnt, offline)
                time.sleep(ground.chance.random() * LIFE_S)
                cut(ground, mnt)
                ground.cuts += 1
                mnt = ground.mount()
            until(lambda: not ground.running(mnt), 120)
            ground.close_batch(mnt)
            return _told(ground, "cuts")
        finally:
            ground.mounts.close()


def _told(ground: Field, what: str) -> tuple[bool, str]:
    agents = ground.batches * AGENTS
    line = (
        f"{ground.cuts} {what}, {agents} agents, {ground.calls} calls, {ground.unknown} of them "
        f"with an unknown outcome; {len(ground.found)} faults"
    )
    return not ground.found, "; ".join([line, *ground.found[:5]])


def kill_daemon(ground: Field, mnt: Path) -> None:
    """SIGKILL; returns when it is gone."""
    pid = daemon(mnt)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not _alive(pid))


def _umount(ground: Field, mnt: Path) -> None:
    ground.mounts.umount(mnt)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(kills: int, seed: int) -> tuple[bool, str]:
    """The daemon is killed with SIGKILL."""
    return cut_daemon(kill_daemon, kills, seed)


def umount(kills: int, seed: int) -> tuple[bool, str]:
    """The store is unmounted and mounted again."""
    return cut_daemon(_umount, kills, seed)


def worker(kills: int, seed: int) -> tuple[bool, str]:
    """The model worker is killed while agents talk to a provider through it."""
    with tempfile.TemporaryDirectory(prefix="nexusfs-torture-") as made:
        ground = Field(Path(made), random.Random(seed))
        try:
            mnt = ground.mount()
            with endpoint(Path(made)) as provider_:
                model = provider_.model_of
                while ground.cuts < kills:
                    if not ground.running(mnt):
                        ground.close_batch(mnt)
                        ground.start(mnt, model)
                        provider_.serve(ground.directory)
                    ground.cuts += _kill_worker(ground, mnt, provider_)
                until(lambda: not ground.running(mnt), 240)
                ground.close_batch(mnt)
                refused = provider_.refused()
            held, line = _told(ground, "kills of the worker")
            return held and not refused, f"{line}; {len(refused)} requests refused"
        finally:
            ground.mounts.close()


def _kill_worker(ground: Field, mnt: Path, provider_: Provider) -> int:
    """Kills the worker while it starts, or in the middle of calls; 0 when there was none."""
    if ground.chance.random() < 0.7:
        served = provider_.served()
        until(lambda: provider_.served() > served or not ground.running(mnt), 120)
        time.sleep(ground.chance.random() / 2)
    else:
        time.sleep(ground.chance.random() * 3)
    found = Path(f"/proc/{daemon(mnt)}/task/{daemon(mnt)}/children").read_text().split()
    for pid in found:
        os.kill(int(pid), signal.SIGKILL)
    return len(found)


SCENES: dict[str, Callable[[int, int], tuple[bool, str]]] = {
    "kill": kill, "umount": umount, "worker": worker, "provider": provider,
}  # fmt: skip
COUNTS = {"kill": 200, "umount": 200, "worker": 50, "provider": PROVIDER_CALLS}


def part_of(name: str) -> Part:
    """A scene as a part of `python -m tests.torture`."""

    def part(plan: Plan) -> str:
        held, line = SCENES[name](COUNTS[name], plan.seed)
        if not held:
            raise PartFailedError(line)
        return line

    return part


PARTS: dict[str, Part] = {f"agents-{name}": part_of(name) for name in SCENES}


def main() -> int:
    """Runs the named scenes, or all; 0 when all of them held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SCENES], metavar="NAME")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int)
    options = parser.parse_args()
    held = True
    for name in options.names or SCENES:
        began = time.monotonic()
        ok, line = SCENES[name](options.kills or COUNTS[name], options.seed)
        took = time.monotonic() - began
        print(
            f"{'held' if ok else 'BROKEN'} {name} (seed {options.seed}, {took:.0f} s): {line}",
            flush=True,
        )
        held = held and ok
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
