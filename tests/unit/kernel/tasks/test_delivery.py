"""How a copilot hears of its tasks: immediate, deferred, on demand; nothing lost, nothing twice."""

import json
from typing import Any

import pytest
import trio

from nexusfs.contracts.task import NEWS_HEADING
from nexusfs.kernel.proc.process import Process
from tests.kernel_fixture import ALICE, until
from tests.unit.kernel.tasks.conftest import MakeOffice, Office


def news(copilot: Process) -> list[str]:
    """The messages on tasks in a copilot's transcript."""
    texts = [str(message["content"]) for message in copilot.transcript]
    return [text for text in texts if text.startswith(NEWS_HEADING)]


async def test_immediate_news_cause_a_turn(office: Office) -> None:
    copilot = await office.copilot()

    task_id = await office.delegate("say apples", copilot.cred)

    await until(lambda: news(copilot))
    assert news(copilot)[-1].endswith(
        f"task {task_id} (agent-{task_id}) is completed (done):\napples"
    )


async def test_progress_alone_causes_no_turn_but_comes_with_what_does(office: Office) -> None:
    copilot = await office.copilot()
    task_id = await office.delegate("turns 2", copilot.cred)

    await until(lambda: news(copilot))

    text = "\n".join(news(copilot))
    assert len(news(copilot)) == 1
    assert f"task {task_id} (agent-{task_id}) is in turn 1, uses look" in text
    assert text.index("turn 1") < text.index("turn 2") < text.index("completed")


async def test_deferred_news_wait_for_the_next_turn_and_come_together(office: Office) -> None:
    copilot = await office.copilot()
    ids = [
        await office.delegate(f"say {n}", copilot.cred, worker={"delivery": "deferred"})
        for n in range(3)
    ]
    await office.ended(*ids)
    for _ in range(20):
        await trio.lowlevel.checkpoint()
    assert news(copilot) == []

    copilot.post("and now?", "stdin")
    await until(lambda: news(copilot))

    (text,) = news(copilot)
    assert [text.count(f"task {one} ") for one in ids] == [1, 1, 1]


async def test_on_demand_there_are_no_news_but_the_collect(office: Office) -> None:
    copilot = await office.copilot()
    task_id = await office.delegate("say a", copilot.cred, delivery="on_demand")
    await office.ended(task_id)

    copilot.post("and now?", "stdin")
    await until(lambda: copilot.transcript)

    assert news(copilot) == []
    found = await office.tasks.collect(copilot.cred)
    assert [info.result for info in found.tasks] == ["a"]


async def test_what_was_collected_is_no_news(office: Office) -> None:
    copilot = await office.copilot(task="go")
    await until(lambda: copilot.wchan == "message")
    task_id = await office.delegate("say a", copilot.cred, delivery="deferred")

    await office.tasks.collect(copilot.cred, (task_id,))
    copilot.post("and now?", "stdin")
    await until(lambda: len(copilot.transcript) == 2)

    assert news(copilot) == []


@pytest.mark.parametrize("policy", ["immediate", "deferred", "on_demand"])
async def test_the_policy_is_visible_on_the_task(office: Office, policy: str) -> None:
    task_id = await office.delegate("say a", worker={"delivery": policy, "metadata": {"k": 1}})

    (info,) = office.tasks.listed(ALICE)
    assert (info.task_id, info.delivery_policy, info.metadata) == (task_id, policy, {"k": 1})


async def test_no_news_are_lost_or_told_twice_when_the_kernel_is_cut_anywhere(
    make_office: MakeOffice,
) -> None:
    office = make_office()
    copilot = await office.copilot()
    ids = [await office.delegate("turns 3", copilot.cred) for _ in range(4)]
    for steps in range(12):  # a cut after each few steps
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await office.cut()
        office = make_office()
    await office.ended(*ids)

    copilot = office.processes.get(copilot.pid)
    await until(lambda: "\n".join(news(copilot)).count("is completed") == 4)

    text = "\n".join(news(copilot))
    for one in ids:
        assert text.count(f"task {one} (agent-{one}) is completed") == 1


async def test_a_slow_reader_gets_every_event_and_stops_no_worker(office: Office) -> None:
    task_id = await office.delegate("turns 500")
    cursor = office.task(task_id).events.cursor()

    await office.ended(task_id)  # nobody has read a byte

    pieces = []
    while piece := cursor.take(100):
        pieces.append(piece)
    rows: list[dict[str, Any]] = [json.loads(line) for line in b"".join(pieces).splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, 504))
    assert [row["turn"] for row in rows if row["type"] == "progress"] == list(range(1, 501))
    assert rows[-1]["state"] == "completed"


async def test_a_long_result_is_cut_in_a_prompt_and_names_the_file(office: Office) -> None:
    copilot = await office.copilot()

    task_id = await office.delegate("say " + "x" * 30_000, copilot.cred)

    await until(lambda: news(copilot))
    assert len(news(copilot)[0]) < 21_000
    assert f"/proc/{copilot.pid}/tasks/{task_id}/result" in news(copilot)[0]


async def test_events_of_an_ended_task_are_the_same_after_a_restart(
    office: Office, make_office: MakeOffice
) -> None:
    task_id = await office.delegate("turns 2")
    await office.ended(task_id)
    before = office.task(task_id)
    lines, version = bytes(before.events.data), before.version
    await office.cut()

    again = make_office()

    assert again.task(task_id).version == version
    assert bytes(again.worker(task_id).task_events.data) == lines
    assert again.task(task_id).events.closed
