"""The agents' journals and the log of calls."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexusfs.drivers.journal_sqlite import CALLS_KEPT, SqliteCallLog, SqliteJournal
from nexusfs.drivers.sqlite import Database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(tmp_path / "journal.sqlite")
    yield db
    db.close()


@pytest.fixture
def journal(db: Database) -> SqliteJournal:
    return SqliteJournal(db)


@pytest.fixture
def calls(db: Database) -> SqliteCallLog:
    return SqliteCallLog(db)


def test_lines_of_processes_do_not_mix(journal: SqliteJournal) -> None:
    for pid, line in ((2, b"a"), (3, b"b"), (2, b"c")):
        journal.append(pid, line)

    assert (journal.read(2), journal.read(3), journal.read(4)) == ([b"a", b"c"], [b"b"], [])


def test_lines_are_appended_after_a_reopen(tmp_path: Path) -> None:
    for line in (b"a", b"b"):
        db = Database(tmp_path / "j.sqlite")
        SqliteJournal(db).append(2, line)
        db.close()

    db = Database(tmp_path / "j.sqlite")

    assert SqliteJournal(db).read(2) == [b"a", b"b"]
    db.close()


def test_pids_count_up_from_two(journal: SqliteJournal) -> None:
    assert [journal.allocate_pid() for _ in range(3)] == [2, 3, 4]


def test_a_pid_is_not_given_again_after_a_reopen(tmp_path: Path) -> None:
    pids = []
    for _ in range(3):
        db = Database(tmp_path / "j.sqlite")
        pids.append(SqliteJournal(db).allocate_pid())
        db.close()

    assert pids == [2, 3, 4]


def test_a_forgotten_process_keeps_its_lines(journal: SqliteJournal) -> None:
    journal.append(2, b"a")
    journal.append(3, b"b")

    journal.forget(2)

    assert journal.pids() == [3]
    assert journal.read(2) == [b"a"]


def test_sync_returns(journal: SqliteJournal) -> None:
    journal.append(2, b"a")

    journal.sync()


def test_a_reply_is_kept_for_its_user_alone(calls: SqliteCallLog) -> None:
    calls.put(1000, "x", b"reply")

    assert calls.get(1000, "x") == b"reply"
    assert calls.get(1001, "x") is None


def test_ids_are_listed_newest_last(calls: SqliteCallLog) -> None:
    for call_id in ("b", "a", "b"):
        calls.put(4_294_967_294, call_id, b"")

    assert calls.ids(4_294_967_294) == ["a", "b"]


def test_only_the_newest_replies_are_kept(calls: SqliteCallLog, db: Database) -> None:
    calls.put(8, "other", b"")
    for n in range(CALLS_KEPT + 5):
        calls.put(7, f"c{n}", b"")

    assert calls.ids(7) == [f"c{n}" for n in range(5, CALLS_KEPT + 5)]
    assert calls.ids(8) == ["other"]
    assert db.row("SELECT count(*) FROM call") == (CALLS_KEPT + 1,)
