"""One process: states, snapshots, messages and what it says."""

import dataclasses
import itertools

import pytest
import trio

from nexusfs.contracts.errors import BusyError
from nexusfs.contracts.proc import ProcState
from nexusfs.kernel.proc.process import DELIVERED_AT_ONCE, Process
from tests.kernel_fixture import ALICE, events_of, says, spec, wants, wish

C, R, T, Z, X = (
    ProcState.CREATED, ProcState.RUNNING, ProcState.PAUSED, ProcState.ZOMBIE, ProcState.STOPPED,
)  # fmt: skip
LEGAL = {(C, R), (C, Z), (R, T), (R, X), (R, Z), (T, R), (T, X), (T, Z), (Z, X)}
"""Source: DESIGN.md section 3."""


@pytest.fixture
def lines() -> list[bytes]:
    return []


@pytest.fixture
def process(lines: list[bytes]) -> Process:
    return Process(7, 1, ALICE.as_agent(7), spec(name="bob"), lambda _, line: lines.append(line))


# States


def test_there_are_five_states_with_a_letter_each() -> None:
    assert {str(state): state.letter for state in ProcState} == {
        "created": "C", "running": "R", "paused": "T", "stopped": "X", "zombie": "Z",
    }  # fmt: skip


@pytest.mark.parametrize(("before", "after"), sorted(LEGAL))
def test_a_legal_move_is_made_and_journaled(
    process: Process, lines: list[bytes], before: ProcState, after: ProcState
) -> None:
    process.state = before

    process.move(after)

    event = events_of(lines)[-1]
    assert process.state is after
    assert (event["type"], event["from"], event["to"]) == ("state", before, after)


@pytest.mark.parametrize(
    ("before", "after"), sorted(set(itertools.product(ProcState, ProcState)) - LEGAL)
)
def test_any_other_move_is_ebusy_and_changes_nothing(
    process: Process, lines: list[bytes], before: ProcState, after: ProcState
) -> None:
    process.state = before

    with pytest.raises(BusyError):
        process.move(after)

    assert (process.state, lines) == (before, [])


def test_only_zombies_and_stopped_have_ended() -> None:
    assert {state for state in ProcState if state.ended} == {Z, X}


def test_a_snapshot_cannot_be_changed_and_does_not_change(process: Process) -> None:
    snapshot = process.info()
    process.move(R)

    assert snapshot.state is C
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.state = X  # type: ignore[misc] # what the test is about


@pytest.mark.parametrize(
    ("fields", "name"), [({"name": "n", "agent": "a"}, "n"), ({"agent": "a"}, "a"), ({}, "agent-7")]
)
def test_an_agent_is_called_by_its_name_its_file_or_its_pid(
    fields: dict[str, str], name: str
) -> None:
    assert Process(7, 1, ALICE, spec(**fields), lambda *_: None).agent_id == name


# Messages


def test_a_message_is_journaled_before_it_is_acknowledged(
    process: Process, lines: list[bytes]
) -> None:
    process.post("hi", "stdin")

    assert [(e["type"], e["text"], e["source"]) for e in events_of(lines)] == [
        ("message", "hi", "stdin")
    ]


def test_messages_are_delivered_in_order_and_once(process: Process) -> None:
    for text in ("one", "two"):
        process.post(text, "stdin")

    counts = (process.deliver(), process.deliver())

    assert counts == (2, 0)
    assert [m["content"] for m in process.transcript] == ["one", "two"]


def test_of_many_messages_some_are_delivered_at_a_time(process: Process) -> None:
    for _ in range(DELIVERED_AT_ONCE + 1):
        process.post("x", "stdin")

    assert (process.deliver(), process.deliver(), process.deliver()) == (DELIVERED_AT_ONCE, 1, 0)


async def test_waiting_for_a_message_ends_when_one_arrives(
    process: Process, nursery: trio.Nursery
) -> None:
    arrived = trio.Event()

    async def wait() -> None:
        await process.message_arrived()
        arrived.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    waits = process.wchan
    process.post("hi", "stdin")
    await arrived.wait()

    assert (waits, process.wchan) == ("message", "0")


async def test_a_waiter_that_is_cancelled_loses_no_message(process: Process) -> None:
    with trio.move_on_after(0):
        await process.message_arrived()
    process.post("hi", "stdin")

    await process.message_arrived()

    assert process.deliver() == 1


# Words


def test_only_the_assistants_text_is_stdout(process: Process) -> None:
    process.post("hi", "task")
    process.deliver()
    process.record("model_call", message=says("hello"))

    assert bytes(process.stdout.data) == b"hello\n"


def test_text_that_is_no_unicode_is_kept_with_replacement(
    process: Process, lines: list[bytes]
) -> None:
    process.post("a\ud800b", "stdin")
    process.deliver()

    assert all(line.decode() for line in lines)


def test_calls_without_a_result_are_answered_in_order(process: Process) -> None:
    process.record("model_call", message=wants(wish("a", "x"), wish("b", "y"), wish("c", "z")))
    process.record(
        "tool_result", message={"role": "tool", "tool_call_id": "a", "name": "x", "content": "1"}
    )

    process.answer_open_calls("interrupted")

    answers = [(m["tool_call_id"], m["content"]) for m in process.transcript[2:]]
    assert answers == [("b", "interrupted"), ("c", "interrupted")]


def test_answering_twice_adds_nothing(process: Process, lines: list[bytes]) -> None:
    process.record("model_call", message=wants(wish("a", "x")))
    process.answer_open_calls("interrupted")
    count = len(lines)

    process.answer_open_calls("interrupted")

    assert len(lines) == count


# The running program


async def test_a_pause_point_holds_until_cont(process: Process, nursery: trio.Nursery) -> None:
    passed = trio.Event()
    process.move(R)
    process.move(T)

    async def program() -> None:
        await process.pause_point()
        passed.set()

    nursery.start_soon(program)
    await trio.testing.wait_all_tasks_blocked()
    held = not passed.is_set()
    process.go_on()
    await passed.wait()

    assert held


@pytest.fixture
def chat() -> Process:
    return Process(7, 1, ALICE.as_agent(7), spec(mode="chat"), lambda *_: None)


async def test_a_dropped_turn_ends_its_block_only(chat: Process) -> None:
    with chat.turn_scope() as turn:
        chat.interrupt()
        await trio.sleep_forever()

    assert turn.interrupted


async def test_a_turn_that_ends_by_itself_was_not_dropped(chat: Process) -> None:
    with chat.turn_scope() as turn:
        pass

    assert not turn.interrupted
    with pytest.raises(BusyError):
        chat.interrupt()


async def test_a_turn_of_a_oneshot_is_not_dropped_alone(process: Process) -> None:
    with process.turn_scope() as turn, pytest.raises(BusyError):
        process.interrupt()

    assert not turn.interrupted


def test_the_latest_of_two_waits_is_shown(process: Process) -> None:
    with process.waiting_for("tool:a"):
        with process.waiting_for("tool:b"):
            inner = process.wchan
        outer = process.wchan

    assert (inner, outer, process.wchan) == ("tool:b", "tool:a", "0")


def test_two_waits_that_end_crosswise_leave_nothing_shown(process: Process) -> None:
    first, second = process.waiting_for("tool:a"), process.waiting_for("tool:b")
    first.__enter__()
    second.__enter__()
    first.__exit__()
    shown = process.wchan
    second.__exit__()

    assert (shown, process.wchan) == ("tool:b", "0")
