"""Whatever is done to tasks, and wherever the kernel is cut: moves are legal, ends are final.

More examples: NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_tasks.py
"""

import contextlib
import json
import os
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.task import LEGAL_TASK_MOVES, TaskState
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.tasks.table import TaskTable, info_of
from tests.kernel_fixture import ALICE, MemoryJournal
from tests.unit.kernel.tasks.conftest import TOOLS, Office, obedient

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "60"))
MESSAGES = ("say a", "fail b", "sleep 1", "sleep 3", "turns 2", "hang")
NUMBERS = st.integers(0, 7)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("delegate"), st.sampled_from(MESSAGES), st.lists(NUMBERS, max_size=2)),
        st.tuples(st.just("ask"), NUMBERS, st.sampled_from(["", "a draft"])),
        st.tuples(st.sampled_from(["approve", "revise", "reject"]), NUMBERS, st.just("text")),
        st.tuples(st.sampled_from(["cancel", "retry", "drop"]), NUMBERS, st.none()),
        st.tuples(st.just("collect"), st.integers(1, 3), st.none()),
        st.tuples(st.just("pass"), st.integers(0, 4), st.none()),
        st.tuples(st.just("cut"), st.none(), st.none()),
    ),
    max_size=20,
)


class World:
    """One journal, a kernel after the other over it, and what is done."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.ids: list[int] = []

    async def run(self, steps: list[tuple[str, Any, Any]]) -> None:
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self.boot()
            for step in steps:
                with contextlib.suppress(KernelError):  # EBUSY and its kin are answers
                    await self.do(*step)
                self.check()
            nursery.cancel_scope.cancel()

    def boot(self) -> None:
        processes = ProcessTable(self.journal, lambda: TOOLS)
        processes.program = obedient
        tasks = TaskTable(processes)
        processes.restore()
        processes.start(self.nursery)
        tasks.start(self.nursery.start_soon)
        self.office = Office(processes, tasks)

    async def do(self, verb: str, what: Any, more: Any) -> None:
        tasks = self.office.tasks
        if verb == "delegate":
            after = sorted({self.ids[n] for n in more if n < len(self.ids)})
            self.ids.append(await self.office.delegate(what, after=after))
        elif verb == "pass":
            await trio.sleep(what / 2)
        elif verb == "collect":
            await tasks.collect(ALICE, count=what, timeout_s=1)
        elif verb == "cut":
            await self.office.cut()
            self.boot()
        elif what < len(self.ids):
            await self.do_to(verb, self.ids[what], more)

    async def do_to(self, verb: str, task_id: int, more: Any) -> None:
        tasks = self.office.tasks
        if verb == "ask":
            with trio.move_on_after(0.5):
                await self.office.ask(task_id, more)
        elif verb == "retry":
            self.ids.append((await tasks.retry(ALICE, task_id)).task_id)
        elif verb == "drop":
            tasks.drop(ALICE, task_id)
        elif verb == "cancel":
            tasks.cancel(ALICE, task_id)
        else:
            tasks.review(ALICE, task_id, verb, more)

    def check(self) -> None:
        """Each task's events follow the machine, and its journal says the same."""
        again = ProcessTable(self.journal, lambda: TOOLS)
        again.restore()
        for process in self.office.processes:
            if process.task is not None:
                check_moves(process)
                twin = again.get(process.pid)
                assert info_of(twin) == info_of(process)
                assert bytes(twin.task_events.data) == bytes(process.task_events.data)


def check_moves(process: Process) -> None:
    rows = [json.loads(line) for line in process.task_events.data.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    states = [TaskState(row["state"]) for row in rows if row["type"] == "state"]
    assert states[0] is TaskState.SUBMITTED
    for before, now in pairwise(states):
        assert now in LEGAL_TASK_MOVES[before]
    assert process.task is not None
    assert states[-1] is process.task.state
    assert process.task.state.final == process.state.ended


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_moves_are_legal_and_the_journal_says_the_same(steps: list[tuple[str, Any, Any]]) -> None:
    world = World()

    trio.run(world.run, steps, clock=trio.testing.MockClock(autojump_threshold=0))
