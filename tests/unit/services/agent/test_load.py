"""What one turn holds up: calls, messages and slots, however many there are."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import trio

from nexusfs.contracts.model import (
    ModelCall,
    ModelObserver,
    ModelReply,
    Quote,
    ScriptedModel,
    Usage,
)
from nexusfs.contracts.proc import ProcState
from nexusfs.kernel.proc.process import DELIVERED_AT_ONCE
from nexusfs.kernel.sched.slots import Slots
from nexusfs.services.agent.loop import CALLS_MAX
from tests.kernel_fixture import check_history, says, wish
from tests.unit.services.agent.test_loop import Stage


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_of_an_answer_with_thousands_of_calls_128_are_made(stage: Stage) -> None:
    said = await stage.turn_of(*(wish(f"c{n}", "look") for n in range(5000)))

    assert len(said) == CALLS_MAX
    check_history(stage.process.transcript)
    reply = next(line for line in stage.lines if b'"model_reply"' in line)
    assert json.loads(reply)["calls_dropped"] == 5000 - CALLS_MAX


async def test_others_run_while_thousands_of_messages_are_delivered(stage: Stage) -> None:
    for _ in range(9_999):
        stage.process.post("x", "stdin")
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(stage.process.mail))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await stage.step(ScriptedModel(says("done")))
        nursery.cancel_scope.cancel()

    assert not stage.process.mail and len(stage.process.transcript) == 10_001
    assert max(a - b for a, b in pairwise(seen)) <= 2 * DELIVERED_AT_ONCE


class Refused:
    """A model that is at capacity for `waits` attempts, and tells who listens."""

    def __init__(self, waits: int, while_waiting: Callable[[], None] = lambda: None) -> None:
        self.waits = waits
        self.while_waiting = while_waiting
        self.slots_at_attempts: list[int] = []
        self.slots: Slots

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        for _ in range(self.waits):
            self.slots_at_attempts.append(self.slots.in_use)
            self.while_waiting()
            await observer.retry(call.model, "busy", 5.0)
        self.slots_at_attempts.append(self.slots.in_use)
        return ModelReply(says("done"), Usage(), call.model)

    async def quote(self, call: ModelCall) -> Quote:
        return Quote(call.model, 0)

    def available(self) -> list[dict[str, Any]]:
        return []


async def test_between_two_attempts_an_agent_holds_no_slot(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    model = Refused(3)
    slots = model.slots = stage.process.host.slots
    between: list[int] = []

    async def look() -> None:
        await trio.sleep(2.5)
        for _ in range(3):
            between.append(slots.in_use)
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await stage.step(model)

    assert (between, model.slots_at_attempts, slots.in_use) == ([0] * 3, [1] * 4, 0)


async def test_an_agent_that_is_paused_between_two_attempts_makes_none_until_cont(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    process = stage.process
    model = Refused(1, lambda: process.move(ProcState.PAUSED))
    slots = model.slots = process.host.slots

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.step, model)
        await trio.sleep(60)
        paused = (list(model.slots_at_attempts), slots.in_use)
        process.go_on()

    assert (paused, model.slots_at_attempts) == (([1], 0), [1, 1])


async def test_an_agent_that_is_cancelled_between_two_attempts_gives_its_slot_back_once(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    model = Refused(1)
    slots = model.slots = stage.process.host.slots

    with trio.move_on_after(1):
        await stage.step(model)

    assert slots.in_use == 0 and stage.process.trouble
