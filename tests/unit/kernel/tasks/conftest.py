"""Task tables over a journal in memory, and workers that do what their message says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.proc import Outcome, ProgramProcess
from nexusfs.contracts.task import TaskInfo, TaskState
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.tasks.table import TaskTable
from nexusfs.kernel.tasks.task import Task
from tests.kernel_fixture import ALICE, MemoryJournal, says, spec, until, wants, wish

TOOLS = ["act", "glob", "grep", "look", "write_file"]
USED = {"input_tokens": 1, "output_tokens": 1, "cost_usd": 0.0}


async def obedient(process: ProgramProcess) -> Outcome:
    """A chat agent listens for good; any other does the last line of its first message.

    `say TEXT`, `fail TEXT`, `sleep SECONDS`, `turns COUNT`, or anything else for ever.
    """
    if not process.transcript:
        await process.message_arrived()
        process.deliver()
    while process.spec.mode == "chat":
        await process.message_arrived()
        process.deliver()
    lines = str(process.transcript[0]["content"]).splitlines()
    verb, _, rest = lines[-1].partition(" ")
    if verb == "say":
        return Outcome(0, "done", rest)
    if verb == "fail":
        return Outcome(1, rest, "what there was")
    if verb == "sleep":
        await trio.sleep(float(rest))
        return Outcome(0, "done", f"slept {rest}")
    if verb == "turns":
        for turn in range(int(rest)):
            process.record("model_reply", message=wants(wish(f"c{turn}", "look")), usage=USED)
            process.answer(f"c{turn}", "seen")
        process.record("model_reply", message=says("end"), usage=USED)
        return Outcome(0, "done", "end")
    await trio.sleep_forever()
    raise AssertionError


@dataclass
class Office:
    """A process table and its tasks, with shorthands."""

    processes: ProcessTable
    tasks: TaskTable

    async def delegate(self, message: str, cred: Credentials = ALICE, **more: Any) -> int:
        info = await self.tasks.delegate(cred, {"message": message, **more})
        return info.task_id

    async def copilot(self, **fields: Any) -> Process:
        """A chat agent that listens."""
        info = await self.processes.spawn(ALICE, spec(mode="chat", **fields))
        process = self.processes.get(info.pid)
        await until(lambda: process.wchan == "message")
        return process

    def worker(self, task_id: int) -> Process:
        return self.processes.get(task_id)

    def task(self, task_id: int) -> Task:
        task = self.worker(task_id).task
        assert task is not None
        return task

    def state(self, task_id: int) -> TaskState:
        return self.task(task_id).state

    async def ended(self, *task_ids: int) -> list[TaskState]:
        """The states of tasks, as soon as all have ended; however far that is in time."""
        for task_id in task_ids:
            await self.worker(task_id).has_ended()
        return [self.state(task_id) for task_id in task_ids]

    async def at_work(self, *task_ids: int) -> None:
        await until(lambda: all(self.state(one) is TaskState.WORKING for one in task_ids))

    async def cut(self) -> None:
        """Stops all of it where it is; another office then goes on from the journal."""
        self.processes.suspend()
        await self.processes.left({process.pid for process in self.processes})

    async def ask(self, task_id: int, draft: str = "", call_id: str = "q") -> str:
        worker = self.worker(task_id)
        return await self.tasks.ask(worker.cred, call_id, "which one?", draft)


MakeOffice = Callable[[], Office]


def infos(found: tuple[TaskInfo, ...]) -> dict[int, str]:
    """Task id → state."""
    return {info.task_id: str(info.state) for info in found}


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def make_office(journal: MemoryJournal, nursery: trio.Nursery) -> MakeOffice:
    """An office over the journal, its agents going on where they were."""

    def make() -> Office:
        processes = ProcessTable(journal, lambda: TOOLS)
        processes.program = obedient
        tasks = TaskTable(processes)
        processes.restore()
        processes.start(nursery)
        tasks.start(nursery.start_soon)
        return Office(processes, tasks)

    return make


@pytest.fixture
def office(make_office: MakeOffice) -> Office:
    return make_office()
