"""sys/sched: what it says of slots, and to whom."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nexusfs.fs import sched_render
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.proc.process import Process
from tests.kernel_fixture import until
from tests.unit.services.running import World, world


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, model_slots=2, slots_per_owner=1) as made:
        yield made


async def rows(here: World, process: Process | None = None, **fields: Any) -> list[dict[str, Any]]:
    """Lines with these values, as a person or an agent reads them."""
    files = BoundSyscalls(here.calls, process.cred) if process else here.files
    lines = (await files.read_file("/sys/sched")).splitlines()
    return [row for row in map(json.loads, lines) if fields.items() <= row.items()]


async def hanging(here: World, wchan: str, **fields: Any) -> Process:
    """An agent that wants a slot for ever, and has it or not."""
    process = await here.play({"hang": True}, **fields)
    await until(lambda: process.wchan == wchan)
    return process


async def test_slots_classes_owners_holders_and_waiters_are_there(here: World) -> None:
    holder = await hanging(here, "model", priority="high")
    waiter = await hanging(here, "slot", priority="low")
    here.kernel.processes.nice(holder.cred.as_agent(0), waiter.pid, 3)

    first, *_ = await rows(here)
    (high,) = await rows(here, number=1)
    (low,) = await rows(here, number=3)
    (owner,) = [row for row in await rows(here, owner=0) if "pid" not in row]
    (holds,) = await rows(here, state="holds")
    (waits,) = await rows(here, state="waits")

    assert (first["slots"], first["in_use"], first["queue"], first["residents"]) == (2, 1, 1, 2)
    assert (high["class"], low["class"]) == ("high", "low")
    assert (high["in_use"], high["waiting"], low["in_use"], low["waiting"]) == (1, 0, 0, 1)
    assert low["longest_wait_s"] > 0
    assert (owner["in_use"], owner["waiting"]) == (1, 1)
    assert (holds["pid"], holds["class"]) == (holder.pid, "high")
    assert (waits["pid"], waits["class"], waits["nice"]) == (waiter.pid, "low", 3)


async def test_an_agent_sees_no_agent_of_another_zone(here: World) -> None:
    mine = await hanging(here, "model", zone="mine")
    other = await hanging(here, "slot", zone="other")

    seen = [{row["pid"] for row in await rows(here, p) if "pid" in row} for p in (mine, other)]

    assert seen == [{mine.pid}, {other.pid}]


async def test_a_long_queue_is_cut_and_says_so(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sched_render, "SHOWN", 2)
    await hanging(here, "model")
    waiting = [(await hanging(here, "slot")).pid for _ in range(3)]

    found = await rows(here, state="waits")

    assert [row.get("pid") for row in found] == [*waiting[:2], None]
    assert found[-1]["left_out"] == 1
