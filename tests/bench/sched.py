"""What the scheduler costs: a slot that is free, and slots for which 1,000 agents wait.

`python -m tests.bench.sched` prints JSON: nanoseconds of one take and give_back by name.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from nexusfs.contracts.proc import Priority
from nexusfs.kernel.sched.claim import Claim
from nexusfs.kernel.sched.slots import Slots
from tests.bench.rivals import Bench
from tests.bench.rows import Row, duration

ROUNDS = 5
FAST = 100_000
WAITERS, TIMES = 1000, 50
ROOT = Path(__file__).resolve().parents[2]


async def free() -> float:
    """Nobody waits."""
    slots = Slots(100, 10)
    began = time.perf_counter_ns()
    for _ in range(FAST):
        claim = Claim(1)
        if not slots.try_take(claim):
            await slots.take(claim)
        slots.give_back(claim)
    return (time.perf_counter_ns() - began) / FAST


async def full(owners: int, priorities: int) -> float:
    """1,000 tasks want 10 slots again and again; with the switches between the tasks."""
    slots = Slots(10, 10)

    async def agent(number: int) -> None:
        for _ in range(TIMES):
            claim = Claim(number % owners, priority=Priority(number % priorities))
            await slots.take(claim)
            await trio.lowlevel.checkpoint()
            slots.give_back(claim)

    began = time.perf_counter_ns()
    async with trio.open_nursery() as nursery:
        for number in range(WAITERS):
            nursery.start_soon(agent, number)
    return (time.perf_counter_ns() - began) / (WAITERS * TIMES)


def main() -> None:
    found = {
        "a slot is free": [trio.run(free) for _ in range(ROUNDS)],
        f"{WAITERS:,} wait": [trio.run(full, 1, 1) for _ in range(ROUNDS)],
        f"{WAITERS:,} wait, 5 classes": [trio.run(full, 1, 5) for _ in range(ROUNDS)],
        f"{WAITERS:,} wait, 10 owners, 5 classes": [trio.run(full, 10, 5) for _ in range(ROUNDS)],
    }
    print(json.dumps({what: statistics.median(taken) for what, taken in found.items()}))


def sched(bench: Bench) -> Iterator[Row]:
    """Take and give_back, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.sched"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    for what, ns in json.loads(done.stdout.splitlines()[-1]).items():
        yield Row(f"model slot, take and give back: {what}", duration(ns))


MEASURES = {"sched": sched}

if __name__ == "__main__":
    main()
