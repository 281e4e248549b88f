"""Logs that grow, their live tail, and readers that follow."""

from collections.abc import Callable

import pytest
import trio

from nexusfs.kernel.log import Log


@pytest.fixture(params=[True, False], ids=["stdout", "events"])
def log(request: pytest.FixtureRequest) -> Log:
    return Log(keeps_live=request.param)


def test_a_cursor_gets_everything_from_the_start(log: Log) -> None:
    log.append(b"a")
    cursor = log.cursor()
    log.append(b"b")

    assert cursor.take() == b"ab"


def test_a_cursor_gets_nothing_twice(log: Log) -> None:
    log.append(b"a")
    cursor = log.cursor()

    assert (cursor.take(), cursor.take()) == (b"a", b"")


def test_cursors_are_apart(log: Log) -> None:
    first, second = log.cursor(), log.cursor()
    log.append(b"a")

    assert (first.take(), second.take()) == (b"a", b"a")


def test_a_cursor_has_news_until_it_takes_them(log: Log) -> None:
    cursor = log.cursor()
    before = cursor.has_news
    log.append(b"a")
    during = cursor.has_news
    cursor.take()

    assert (before, during, cursor.has_news) == (False, True, False)


# The live tail


def test_the_live_tail_is_seen_piece_by_piece(log: Log) -> None:
    cursor = log.cursor()
    log.push_live(b"Hel")
    first = cursor.take()
    log.push_live(b"lo")

    assert (first, cursor.take()) == (b"Hel", b"lo")


def test_the_live_tail_is_not_in_the_file(log: Log) -> None:
    log.push_live(b"Hel")

    assert bytes(log.data) == b""


@pytest.mark.parametrize(
    ("keeps_live", "rest"), [(True, b"lo\n"), (False, b"Hello\n")], ids=["stdout", "events"]
)
def test_who_saw_the_live_text_goes_on_after_it_or_with_the_record(
    keeps_live: bool, rest: bytes
) -> None:
    log = Log(keeps_live=keeps_live)
    cursor = log.cursor()
    log.push_live(b"Hel")
    cursor.take()

    log.append(b"Hello\n")

    assert cursor.take() == rest


def test_who_saw_no_live_text_gets_the_record_once(log: Log) -> None:
    cursor = log.cursor()
    log.push_live(b"Hel")

    log.append(b"Hello\n")

    assert cursor.take() == b"Hello\n"


def test_live_text_that_was_dropped_is_not_seen_by_who_had_not_looked(log: Log) -> None:
    cursor = log.cursor()
    log.push_live(b"wrong")
    log.drop_live()
    log.push_live(b"right")

    assert cursor.take() == b"right"


def test_after_a_drop_everybody_reads_the_new_text_whole(log: Log) -> None:
    cursor = log.cursor()
    log.push_live(b"wrong")
    cursor.take()
    log.drop_live()
    log.push_live(b"right")

    log.append(b"right\n")

    assert cursor.take() == b"right\n"


def test_a_cursor_that_comes_late_sees_the_live_tail(log: Log) -> None:
    log.append(b"a\n")
    log.push_live(b"b")

    assert log.cursor().take() == b"a\nb"


# The end


def test_the_end_is_after_the_last_byte(log: Log) -> None:
    cursor = log.cursor()
    log.append(b"a")
    log.close()
    before = cursor.at_end
    cursor.take()

    assert (before, cursor.at_end) == (False, True)


def test_an_open_log_has_no_end(log: Log) -> None:
    assert not log.cursor().at_end


def test_a_log_may_be_closed_from_the_start() -> None:
    assert Log(b"", closed=True).cursor().at_end


def test_a_cursor_that_was_closed_is_forgotten(log: Log) -> None:
    cursor = log.cursor()

    cursor.close()
    cursor.close()
    log.append(b"a")

    assert cursor.live_offset == 0


# Waking


CHANGES: dict[str, Callable[[Log], None]] = {
    "append": lambda log: log.append(b"a"),
    "push_live": lambda log: log.push_live(b"a"),
    "close": lambda log: log.close(),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_all_who_wait_wake_at_a_change(log: Log, change: str, nursery: trio.Nursery) -> None:
    woken: list[int] = []
    log.cursor()

    async def wait(number: int) -> None:
        await log.changed()
        woken.append(number)

    for number in range(3):
        nursery.start_soon(wait, number)
    await trio.testing.wait_all_tasks_blocked()
    CHANGES[change](log)
    await trio.testing.wait_all_tasks_blocked()

    assert sorted(woken) == [0, 1, 2]


@pytest.mark.parametrize("change", CHANGES)
def test_a_poll_is_told_once(log: Log, change: str) -> None:
    told: list[str] = []
    log.cursor()
    log.on_change(log, lambda: told.append("changed"))

    for _ in range(2):
        CHANGES[change](log)

    assert told == ["changed"]


async def test_a_waiter_that_is_cancelled_leaves_the_log_as_it_was(log: Log) -> None:
    with trio.move_on_after(0):
        await log.changed()
    log.append(b"a")

    assert bytes(log.data) == b"a"
