"""Workers that ask, artifacts, and messages to the copilot."""

import json

import pytest
import trio

from nexusfs.contracts.errors import BusyError, InvalidError, UnavailableError
from nexusfs.contracts.task import TaskState
from tests.kernel_fixture import ALICE, MemoryJournal, until
from tests.unit.kernel.tasks.conftest import MakeOffice, Office


async def asking(office: Office, nursery: trio.Nursery, draft: str = "") -> tuple[int, list[str]]:
    """A task whose worker asks, and what it will be told."""
    task_id = await office.delegate("hang")
    await office.at_work(task_id)
    told: list[str] = []

    async def ask() -> None:
        told.append(await office.ask(task_id, draft))

    nursery.start_soon(ask)
    await until(lambda: office.state(task_id) is TaskState.INPUT_REQUIRED)
    return task_id, told


@pytest.mark.parametrize(
    ("verb", "text", "told"),
    [("approve", "", "approve"), ("approve", "gladly", "approve: gladly"),
     ("revise", "the other", "revise: the other")],
)  # fmt: skip
async def test_a_worker_that_asks_goes_on_with_the_answer(
    office: Office, nursery: trio.Nursery, verb: str, text: str, told: str
) -> None:
    task_id, found = await asking(office, nursery)

    office.tasks.review(ALICE, task_id, verb, text)

    await until(lambda: found == [told])
    assert office.state(task_id) is TaskState.WORKING


async def test_an_approved_draft_is_the_result(office: Office, nursery: trio.Nursery) -> None:
    task_id, _ = await asking(office, nursery, "my draft")

    office.tasks.review(ALICE, task_id, "approve")

    assert office.state(task_id) is TaskState.COMPLETED
    assert office.worker(task_id).result == "my draft"


async def test_a_revised_draft_is_none(office: Office, nursery: trio.Nursery) -> None:
    task_id, found = await asking(office, nursery, "my draft")

    office.tasks.review(ALICE, task_id, "revise", "shorter")

    await until(lambda: found == ["revise: shorter"])
    assert not office.worker(task_id).state.ended


async def test_a_rejection_fails_the_task(office: Office, nursery: trio.Nursery) -> None:
    task_id, _ = await asking(office, nursery)

    office.tasks.review(ALICE, task_id, "reject", "not good")

    assert office.state(task_id) is TaskState.FAILED
    assert office.worker(task_id).reason == "rejected: not good"


async def test_a_review_of_what_was_seen_before_is_refused(
    office: Office, nursery: trio.Nursery
) -> None:
    task_id, _ = await asking(office, nursery)
    seen = office.task(task_id).version

    with pytest.raises(BusyError, match="look at it again"):
        office.tasks.review(ALICE, task_id, "approve", version=seen - 1)
    office.tasks.review(ALICE, task_id, "approve", version=seen)
    with pytest.raises(BusyError):
        office.tasks.review(ALICE, task_id, "approve", version=seen)


async def test_a_worker_that_asks_nothing_reads_a_revise_at_its_next_turn(office: Office) -> None:
    task_id = await office.delegate("hang")
    await office.at_work(task_id)

    office.tasks.review(ALICE, task_id, "revise", "the other one")

    assert office.worker(task_id).mail == ["the other one"]


async def test_approval_of_what_was_not_asked_is_refused(office: Office) -> None:
    task_id = await office.delegate("hang")
    await office.at_work(task_id)

    for verb in ("approve", "reject"):
        with pytest.raises(BusyError, match="asks nothing"):
            office.tasks.review(ALICE, task_id, verb)


async def test_a_revise_says_what_to_do(office: Office, nursery: trio.Nursery) -> None:
    task_id, _ = await asking(office, nursery)

    with pytest.raises(InvalidError, match="revise TEXT"):
        office.tasks.review(ALICE, task_id, "revise", " ")


async def test_a_review_after_the_end_names_retry(office: Office) -> None:
    task_id = await office.delegate("say a")
    await office.ended(task_id)

    with pytest.raises(BusyError, match="retry"):
        office.tasks.review(ALICE, task_id, "revise", "more")


async def test_one_question_at_a_time(office: Office, nursery: trio.Nursery) -> None:
    task_id, _ = await asking(office, nursery)

    with pytest.raises(BusyError, match="one at a time"):
        await office.ask(task_id, call_id="another")


async def test_an_agent_without_a_task_has_nobody_to_ask(office: Office) -> None:
    copilot = await office.copilot()

    with pytest.raises(UnavailableError, match="nobody to ask"):
        await office.tasks.ask(copilot.cred, "q", "which?", "")
    with pytest.raises(UnavailableError, match="nobody to ask"):
        await office.tasks.ask(ALICE, "q", "which?", "")


async def test_a_question_survives_the_kernel_and_its_answer_too(
    make_office: MakeOffice, nursery: trio.Nursery
) -> None:
    before = make_office()
    task_id, _ = await asking(before, nursery)
    await before.cut()

    office = make_office()
    assert office.state(task_id) is TaskState.INPUT_REQUIRED
    office.tasks.review(ALICE, task_id, "revise", "this one")

    assert await office.ask(task_id) == "revise: this one"
    await office.cut()
    assert await make_office().ask(task_id) == "revise: this one"


async def test_the_end_wakes_nobody_into_a_question_that_is_gone(
    office: Office, nursery: trio.Nursery
) -> None:
    task_id, _ = await asking(office, nursery)

    office.tasks.cancel(ALICE, task_id)

    assert office.task(task_id).question == ""
    assert office.state(task_id) is TaskState.CANCELED


async def test_artifacts_are_announced_and_kept(
    office: Office, make_office: MakeOffice, journal: MemoryJournal
) -> None:
    task_id = await office.delegate("sleep 0")
    worker = office.worker(task_id)

    office.tasks.artifact(worker.cred, "report.md", "/tmp/report.md", 7)
    await office.ended(task_id)

    lines = [json.loads(line) for line in office.worker(task_id).task_events.data.splitlines()]
    announced = [line for line in lines if line["type"] == "artifact"]
    assert [(a["name"], a["path"], a["size_bytes"]) for a in announced] == [
        ("report.md", "/tmp/report.md", 7)
    ]
    await office.cut()
    assert make_office().task(task_id).artifacts == {"report.md": "/tmp/report.md"}


async def test_a_message_to_the_copilot_is_an_event_of_the_task(office: Office) -> None:
    copilot = await office.copilot()
    task_id = await office.delegate("hang", copilot.cred)
    worker = office.worker(task_id)

    assert office.tasks.note(worker.cred, copilot.pid, "half way")
    assert not office.tasks.note(worker.cred, 99, "half way")
    assert not office.tasks.note(ALICE, copilot.pid, "half way")

    assert b'"type":"note","text":"half way"' in office.task(task_id).events.data
