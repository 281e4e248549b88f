"""Delegate, cancel, retry and drop; who may, and what is seen."""

from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import (
    BusyError,
    ExistsError,
    InvalidError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
)
from nexusfs.contracts.proc import ProcState
from nexusfs.contracts.task import LEGAL_TASK_MOVES, TaskState
from nexusfs.kernel.tasks.task import Task
from tests.kernel_fixture import ALICE, BOB, ROOT, spec, until
from tests.unit.kernel.tasks.conftest import Office

FINAL = {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED}


# The machine


def test_there_is_no_way_back_from_an_end() -> None:
    assert {state for state in TaskState if state.final} == FINAL
    assert all(LEGAL_TASK_MOVES[state] == frozenset() for state in FINAL)


@pytest.mark.parametrize("start", list(TaskState))
@pytest.mark.parametrize("goal", list(TaskState))
def test_a_move_is_refused_when_the_machine_does_not_have_it(
    start: TaskState, goal: TaskState
) -> None:
    task = Task({"message": "x"})
    task.state = start

    if goal in LEGAL_TASK_MOVES[start]:
        task.check_move(goal)
    else:
        with pytest.raises(BusyError, match=f"is {start}"):
            task.check_move(goal)


# Delegate


async def test_a_worker_is_a_running_child_of_its_copilot(office: Office) -> None:
    copilot = await office.copilot(zone="lab")

    task_id = await office.delegate("hang", copilot.cred, worker={"name": "wright"})

    worker = office.worker(task_id)
    assert (worker.parent_pid, worker.state) == (copilot.pid, ProcState.RUNNING)
    assert worker.spec.zone == "lab"
    assert office.state(task_id) is TaskState.SUBMITTED
    await office.at_work(task_id)


async def test_a_worker_may_say_more_turns_than_the_fifty_it_has(office: Office) -> None:
    plain = await office.delegate("say a")
    told = await office.delegate("say a", worker={"max_turns": 3})

    assert office.worker(plain).spec.max_turns == 50
    assert office.worker(told).spec.max_turns == 3


async def test_ten_delegations_at_once_are_ten_workers(office: Office) -> None:
    found: list[int] = []

    async def one() -> None:
        found.append(await office.delegate("say a"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)

    assert len(set(found)) == 10
    assert await office.ended(*found) == [TaskState.COMPLETED] * 10


@pytest.mark.parametrize(
    ("message", "state", "result"),
    [("say hello", "completed", "hello"), ("fail no paper", "failed", "what there was")],
)
async def test_a_task_ends_as_its_worker_does(
    office: Office, message: str, state: str, result: str
) -> None:
    task_id = await office.delegate(message)

    assert await office.ended(task_id) == [state]
    assert office.worker(task_id).result == result


async def test_a_killed_worker_is_a_canceled_task(office: Office) -> None:
    task_id = await office.delegate("hang")

    office.processes.kill(ALICE, task_id)

    assert office.state(task_id) is TaskState.CANCELED


async def test_the_end_of_a_copilot_cancels_its_tasks(office: Office) -> None:
    copilot = await office.copilot()
    ids = [await office.delegate("hang", copilot.cred) for _ in range(3)]

    office.processes.kill(ALICE, copilot.pid)

    assert [office.state(one) for one in ids] == [TaskState.CANCELED] * 3


async def test_the_same_key_is_the_same_task(office: Office) -> None:
    first = await office.delegate("hang", idempotency_key="k")

    assert await office.delegate("hang", idempotency_key="k") == first
    assert await office.delegate("hang", BOB, idempotency_key="k") != first


async def test_a_key_of_an_agent_without_a_task_is_refused(office: Office) -> None:
    await office.processes.spawn(ALICE, spec(mode="chat", idempotency_key="k"))

    with pytest.raises(ExistsError, match="no task"):
        await office.delegate("hang", idempotency_key="k")


async def test_to_ask_for_more_than_the_copilot_has_is_refused_with_the_list(
    office: Office,
) -> None:
    copilot = await office.copilot(tools=["grep", "look"])
    before = len(office.processes)

    with pytest.raises(NotPermittedError, match="write_file, act"):
        await office.delegate("hang", copilot.cred, worker={"tools": ["write_file", "act"]})

    assert len(office.processes) == before


async def test_the_tools_of_a_worker_are_an_intersection(office: Office) -> None:
    copilot = await office.copilot(tools=["g*", "look"])

    task_id = await office.delegate("hang", copilot.cred, worker={"tools": ["gr*", "look"]})

    assert office.worker(task_id).spec.tools == ("grep", "look")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, r"\$\.message"),
        ({"message": ""}, r"\$\.message"),
        ({"mesage": "a"}, "did you mean 'message'"),
        ({"message": "a", "tools": ["grep"]}, 'go into "worker"'),
        ({"message": "a", "worker": 7}, r"\$\.worker"),
        ({"message": "a", "worker": {"task": "b"}}, 'is the "message"'),
        ({"message": "a", "worker": {"mode": "chat"}}, "oneshot"),
        ({"message": "a", "worker": {"modle": "x"}}, "did you mean 'model'"),
        ({"message": "a", "delivery": "soon"}, r"\$\.delivery"),
        ({"message": "a", "delivery": "deferred", "worker": {"delivery": "deferred"}}, "twice"),
        ({"message": "a", "after": "7"}, r"\$\.after"),
        ({"message": "a", "after": [True]}, r"\$\.after"),
        ({"message": "a", "budget_tokens": 0}, r"\$\.budget_tokens"),
    ],
)
async def test_a_wrong_request_says_what_to_write(
    office: Office, raw: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidError, match=said):
        await office.tasks.delegate(ALICE, raw)


async def test_the_references_names_of_fields_are_taken(office: Office) -> None:
    raw = {
        "message": "hang",
        "worker": {"tool_allowlist": ["gr*"], "zone_id": "lab", "delivery_policy": "deferred"},
    }

    info = await office.tasks.delegate(ALICE, raw)

    assert info.delivery_policy == "deferred"
    assert office.worker(info.task_id).spec.tools == ("grep",)
    assert office.worker(info.task_id).spec.zone == "lab"


# Cancel


async def test_a_cancel_ends_task_and_worker_with_its_reason(office: Office) -> None:
    task_id = await office.delegate("hang")

    assert office.tasks.cancel(ALICE, task_id, "no need")

    worker = office.worker(task_id)
    assert office.state(task_id) is TaskState.CANCELED
    assert (worker.exit_code, worker.reason) == (-15, "no need")


async def test_a_cancel_after_the_end_is_harmless(office: Office) -> None:
    task_id = await office.delegate("say a")
    await office.ended(task_id)

    assert not office.tasks.cancel(ALICE, task_id)
    assert office.state(task_id) is TaskState.COMPLETED


async def test_a_cancel_leaves_the_others(office: Office) -> None:
    first, second = [await office.delegate("hang") for _ in range(2)]

    office.tasks.cancel(ALICE, first)

    assert not office.worker(second).state.ended


async def test_cancel_all_counts_and_is_idempotent(office: Office) -> None:
    copilot = await office.copilot()
    ids = [await office.delegate("hang", copilot.cred) for _ in range(5)]
    done = await office.delegate("say a", copilot.cred)
    await office.ended(done)

    assert office.tasks.cancel_all(ALICE, copilot.pid) == ids
    assert office.tasks.cancel_all(ALICE, copilot.pid) == []
    assert not copilot.state.ended


async def test_cancel_all_of_people_is_of_their_own_tasks(office: Office) -> None:
    own = await office.delegate("hang")
    other = await office.delegate("hang", BOB)

    assert office.tasks.cancel_all(ALICE, 1) == [own]
    assert not office.worker(other).state.ended


# Rights


async def test_the_tasks_of_others_cannot_be_acted_on(office: Office) -> None:
    task_id = await office.delegate("hang")

    with pytest.raises(NotPermittedError):
        office.tasks.cancel(BOB, task_id)
    assert office.tasks.cancel(ROOT, task_id)


async def test_people_see_their_own_tasks_of_the_kernel(office: Office) -> None:
    own = await office.delegate("hang")
    other = await office.delegate("hang", BOB)

    assert [info.task_id for info in office.tasks.listed(ALICE)] == [own]
    assert [info.task_id for info in office.tasks.listed(ROOT)] == [own, other]


async def test_a_worker_does_not_act_on_its_own_task(office: Office) -> None:
    task_id = await office.delegate("hang")

    with pytest.raises(NotPermittedError):
        office.tasks.review(office.worker(task_id).cred, task_id, "approve")


async def test_a_sibling_neither_sees_nor_collects(office: Office) -> None:
    one, two = await office.copilot(), await office.copilot()
    task_id = await office.delegate("say a", one.cred)

    with pytest.raises(NotFoundError):
        await office.tasks.collect(two.cred, (task_id,))
    with pytest.raises(NotPermittedError):
        office.tasks.listed(two.cred, one.pid)
    with pytest.raises(NotPermittedError):
        office.tasks.cancel(two.cred, task_id)


async def test_an_agent_of_another_zone_finds_no_task(office: Office) -> None:
    one, two = await office.copilot(zone="a"), await office.copilot(zone="b")
    task_id = await office.delegate("hang", one.cred)

    with pytest.raises(NotFoundError):
        office.tasks.cancel(two.cred, task_id)


async def test_an_agent_does_not_delegate_for_the_kernel(office: Office) -> None:
    copilot = await office.copilot()

    with pytest.raises(NotPermittedError, match="own child"):
        await office.tasks.delegate(copilot.cred, {"message": "a"}, 1)


# Retry and drop


async def test_a_retry_is_a_new_task_with_a_new_worker(office: Office) -> None:
    task_id = await office.delegate(
        "fail paper", worker={"tools": ["grep"], "metadata": {"k": 1}}, idempotency_key="k"
    )
    await office.ended(task_id)

    again = await office.tasks.retry(ALICE, task_id)

    assert again.task_id != task_id
    assert (again.message, again.metadata) == ("fail paper", {"k": 1})
    assert office.worker(again.task_id).spec.tools == ("grep",)
    assert await office.ended(again.task_id) == [TaskState.FAILED]
    assert office.state(task_id) is TaskState.FAILED


async def test_a_retry_waits_for_the_end(office: Office) -> None:
    task_id = await office.delegate("hang")

    with pytest.raises(BusyError, match="cancel it first"):
        await office.tasks.retry(ALICE, task_id)


async def test_a_dropped_task_is_gone_with_its_worker(office: Office) -> None:
    task_id = await office.delegate("say a")
    await office.ended(task_id)

    office.tasks.drop(ALICE, task_id)

    assert office.processes.find(task_id) is None
    assert office.tasks.listed(ALICE) == []


async def test_a_task_that_has_not_ended_is_not_dropped(office: Office) -> None:
    task_id = await office.delegate("hang")

    with pytest.raises(BusyError, match="cancel it first"):
        office.tasks.drop(ALICE, task_id)


async def test_a_merge_waits_for_workspaces(office: Office) -> None:
    with pytest.raises(UnavailableError, match="workspaces"):
        office.tasks.refuse("merge")
    with pytest.raises(InvalidError, match="one of cancel approve"):
        office.tasks.refuse("mrege")


async def test_a_detached_worker_becomes_a_task_of_the_user(office: Office) -> None:
    copilot = await office.copilot()
    task_id = await office.delegate("hang", copilot.cred, worker={"life": "detached"})

    office.processes.kill(ALICE, copilot.pid)

    assert [info.task_id for info in office.tasks.listed(ALICE)] == [task_id]
    await until(lambda: office.tasks.cancel(ALICE, task_id))
