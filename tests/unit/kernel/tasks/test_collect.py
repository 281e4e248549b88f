"""Plans, and collecting results without polling."""

from typing import Any

import pytest
import trio
import trio.testing

from nexusfs.contracts.errors import BusyError, InvalidError, NotFoundError
from nexusfs.contracts.proc import ProcState
from nexusfs.contracts.task import Collected, TaskState
from tests.kernel_fixture import ALICE, BOB, until
from tests.unit.kernel.tasks.conftest import MakeOffice, Office, infos


async def test_collect_of_all_returns_when_the_last_has_ended(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    ids = [await office.delegate(f"sleep {n}") for n in (3, 1, 2)]

    found = await office.tasks.collect(ALICE, tuple(ids))

    assert trio.current_time() == pytest.approx(3)
    assert [info.result for info in found.tasks] == ["slept 3", "slept 1", "slept 2"]
    assert found.pending == ()


@pytest.mark.parametrize(("count", "seconds"), [(1, 1), (2, 2), (3, 3), (9, 3)])
async def test_collect_of_the_first_n_returns_with_them(
    office: Office, autojump_clock: trio.testing.MockClock, count: int, seconds: int
) -> None:
    ids = [await office.delegate(f"sleep {n}") for n in (3, 1, 2)]

    found = await office.tasks.collect(ALICE, tuple(ids), count=count)

    assert trio.current_time() == pytest.approx(seconds)
    assert len(found.tasks) + len(found.pending) == 3
    assert len(found.tasks) == seconds


async def test_collect_gives_up_after_its_timeout_and_names_the_rest(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    slow, quick = await office.delegate("sleep 9"), await office.delegate("sleep 1")

    found = await office.tasks.collect(ALICE, (slow, quick), timeout_s=2)

    assert trio.current_time() == pytest.approx(2)
    assert infos(found.tasks) == {quick: "completed"}
    assert found.pending == (slow,)


async def test_collect_looks_and_returns_at_once_with_no_time(office: Office) -> None:
    task_id = await office.delegate("hang")

    assert (await office.tasks.collect(ALICE, (task_id,), timeout_s=0)).pending == (task_id,)


async def test_partial_failure_is_collected_with_the_rest(office: Office) -> None:
    ids = [await office.delegate(f"{verb} x") for verb in ("say", "fail", "say")]

    found = await office.tasks.collect(ALICE)

    assert infos(found.tasks) == dict(zip(ids, ("completed", "failed", "completed"), strict=True))


async def test_a_cancel_wakes_a_blocked_collect_and_a_blocked_stream(
    office: Office, nursery: trio.Nursery
) -> None:
    task_id = await office.delegate("hang")
    await office.at_work(task_id)
    found: list[Collected] = []
    cursor = office.task(task_id).events.cursor()

    async def collect() -> None:
        found.append(await office.tasks.collect(ALICE, (task_id,)))

    nursery.start_soon(collect)
    await trio.testing.wait_all_tasks_blocked()
    assert found == []
    office.tasks.cancel(ALICE, task_id)

    await until(lambda: found)
    assert infos(found[0].tasks) == {task_id: "canceled"}
    assert b"canceled" in cursor.take()
    assert cursor.at_end


async def test_a_worker_that_asks_is_collected_so_that_it_can_be_answered(
    office: Office, nursery: trio.Nursery
) -> None:
    task_id = await office.delegate("hang")
    await office.at_work(task_id)
    nursery.start_soon(office.ask, task_id)

    found = await office.tasks.collect(ALICE, (task_id,))

    assert infos(found.tasks) == {task_id: "input-required"}
    assert found.tasks[0].question == "which one?"


async def test_what_a_copilot_collects_is_waited_for_and_collected_once(office: Office) -> None:
    copilot = await office.copilot()
    first = await office.delegate("say a", copilot.cred)
    second = await office.delegate("hang", copilot.cred)

    found = await office.tasks.collect(copilot.cred, count=1)
    again = await office.tasks.collect(copilot.cred, timeout_s=0)

    assert infos(found.tasks) == {first: "completed"}
    assert office.worker(first).state is ProcState.STOPPED
    assert (infos(again.tasks), again.pending) == ({}, (second,))


async def test_a_copilot_shows_what_it_waits_for(office: Office, nursery: trio.Nursery) -> None:
    copilot = await office.copilot()
    task_id = await office.delegate("hang", copilot.cred)

    nursery.start_soon(office.tasks.collect, copilot.cred)

    await until(lambda: copilot.wchan == f"child:{task_id}")


@pytest.mark.parametrize("wrong", [{"count": 0}, {"timeout_s": -1.0}, {"timeout_s": float("nan")}])
async def test_a_wrong_count_or_time_is_invalid(office: Office, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        await office.tasks.collect(ALICE, **wrong)


async def test_an_unknown_task_is_not_found(office: Office) -> None:
    with pytest.raises(NotFoundError, match="ls proc/1/tasks"):
        await office.tasks.collect(ALICE, (99,))


async def test_a_thousand_tasks_are_collected_with_the_cost_of_each_once(office: Office) -> None:
    ids = tuple([await office.delegate("turns 2") for _ in range(1000)])

    found = await office.tasks.collect(ALICE, ids)

    assert len(found.tasks) == 1000


# Plans


async def test_a_task_gets_the_results_of_those_it_waits_for(office: Office) -> None:
    first = await office.delegate("say apples")
    second = await office.delegate("sleep 0")

    last = await office.delegate("say both", after=[first, str(second)])

    assert await office.ended(last) == [TaskState.COMPLETED]
    message = office.worker(last).transcript[0]["content"]
    assert message == (
        f"[task {first} (agent-{first}) is completed]\napples\n\n"
        f"[task {second} (agent-{second}) is completed]\nslept 0\n\nsay both"
    )


async def test_a_task_waits_until_the_others_have_ended(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    first = await office.delegate("sleep 5")
    last = await office.delegate("say end", after=[first])

    await trio.sleep(4)
    assert office.state(last) is TaskState.SUBMITTED
    await office.ended(last)

    assert trio.current_time() == pytest.approx(5)


async def test_a_chain_breaks_at_the_task_that_fails(office: Office) -> None:
    ids = [await office.delegate("say a")]
    for message in ("fail b", "say c", "say d"):
        ids.append(await office.delegate(message, after=[ids[-1]]))

    states = await office.ended(*ids)

    assert states == ["completed", "failed", "rejected", "rejected"]
    assert office.worker(ids[2]).reason == f"rejected: task {ids[1]} is failed"


async def test_a_task_that_says_so_runs_after_a_failure_too(office: Office) -> None:
    first = await office.delegate("fail paper")

    last = await office.delegate("say anyway", after=[first], on_failed="run")

    assert await office.ended(last) == [TaskState.COMPLETED]
    assert f"task {first} (agent-{first}) is failed" in office.worker(last).transcript[0]["content"]


async def test_a_cancel_reaches_those_that_wait(office: Office) -> None:
    first = await office.delegate("hang")
    last = await office.delegate("say a", after=[first])

    office.tasks.cancel(ALICE, first)

    assert await office.ended(last) == [TaskState.REJECTED]


async def test_a_task_that_has_not_begun_can_be_canceled_but_not_revised(office: Office) -> None:
    first = await office.delegate("hang")
    last = await office.delegate("say a", after=[first])

    with pytest.raises(BusyError, match="has not begun"):
        office.tasks.review(ALICE, last, "revise", "say b")
    assert office.tasks.cancel(ALICE, last)
    assert office.state(last) is TaskState.CANCELED


async def test_only_own_tasks_can_be_waited_for(office: Office) -> None:
    other = await office.delegate("say a", BOB)

    for unknown in (99, other):
        with pytest.raises(NotFoundError):
            await office.delegate("say b", after=[unknown])
    assert len(office.processes) == 1


async def test_a_task_after_one_that_was_dropped_is_rejected(
    office: Office, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = await office.delegate("say a"), await office.delegate("sleep 1")
    last = await office.delegate("say b", after=[first, second])
    await office.ended(first)
    office.tasks.drop(ALICE, first)

    assert await office.ended(last) == [TaskState.REJECTED]
    assert "not there any more" in office.worker(last).reason


async def test_a_plan_goes_on_after_a_kill_of_the_kernel(
    make_office: MakeOffice, autojump_clock: trio.testing.MockClock
) -> None:
    before = make_office()
    first = await before.delegate("sleep 5")
    middle = await before.delegate("sleep 1", after=[first])
    last = await before.delegate("fail x", after=[middle])
    never = await before.delegate("say a", after=[last])
    await before.at_work(first)
    await before.cut()

    office = make_office()

    assert await office.ended(first, middle, last, never) == [
        "completed", "completed", "failed", "rejected",
    ]  # fmt: skip
    await office.cut()
    again = make_office()
    assert [again.state(one) for one in (first, middle, last, never)] == [
        "completed", "completed", "failed", "rejected",
    ]  # fmt: skip
