"""Process tables over a journal in memory."""

from collections.abc import Callable

import pytest
import trio

from nexusfs.contracts.proc import Outcome, ProgramProcess
from nexusfs.kernel.proc.spawning import ProcSettings
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import MemoryJournal

TOOLS = ["act", "glob", "grep", "look", "write_file"]


async def until_a_message(process: ProgramProcess) -> Outcome:
    """A program that ends when it is told anything."""
    await process.message_arrived()
    return Outcome(0, "done", "the result")


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def make_table(journal: MemoryJournal, nursery: trio.Nursery) -> Callable[..., ProcessTable]:
    """Makes a table over the journal, restored and started; agents run until told to end."""

    def make(settings: ProcSettings | None = None) -> ProcessTable:
        table = ProcessTable(journal, lambda: TOOLS, settings)
        table.program = until_a_message
        table.restore()
        table.start(nursery)
        return table

    return make


@pytest.fixture
def table(make_table: Callable[..., ProcessTable]) -> ProcessTable:
    return make_table()
