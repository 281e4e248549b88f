"""The agents' journals and the log of calls."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nexusfs.contracts.errors import KernelError, NoSpaceError
from nexusfs.drivers.journal_sqlite import (
    BLOCK_BYTES,
    CALLS_KEPT,
    FOLD_BYTES,
    MANY_ROWS,
    SqliteCallLog,
    SqliteJournal,
)
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


def killed(db: Database, to: Path) -> Database:
    """What kill -9 leaves of the journal in `db`, opened anew in the directory `to`."""
    shutil.copytree(db.path.parent, to)
    return Database(to / db.path.name)


def fold(journal: SqliteJournal, pid: int = 99) -> None:
    """Appends until the log has been folded."""
    for _ in range(3):
        journal.append(pid, b"x" * (FOLD_BYTES // 2))


def row_count(db: Database, pid: int) -> int:
    found = db.row("SELECT count(*) FROM line WHERE id >> 32 = ?", (pid,))
    return int(found[0])


def test_a_line_survives_kill_9_once_append_returned(
    db: Database, journal: SqliteJournal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    journal.append(2, b"a")
    journal.append(2, b"b")

    again = killed(db, tmp_path_factory.mktemp("killed") / "store")

    assert SqliteJournal(again).read(2) == [b"a", b"b"]
    again.close()


def test_a_given_pid_survives_kill_9(
    db: Database, journal: SqliteJournal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = journal.allocate_pid()

    again = killed(db, tmp_path_factory.mktemp("killed") / "store")

    assert SqliteJournal(again).allocate_pid() == given + 1
    again.close()


def test_a_torn_record_at_the_end_is_cut_off(tmp_path: Path) -> None:
    db = Database(tmp_path / "j.sqlite")
    journal = SqliteJournal(db)
    journal.append(2, b"whole")
    journal.append(2, b"torn by a power cut")
    db.close()
    log = tmp_path / "j.log"
    os.truncate(log, log.stat().st_size - 3)

    again = Database(tmp_path / "j.sqlite")
    restored = SqliteJournal(again)
    restored.append(2, b"next")

    assert restored.read(2) == [b"whole", b"next"]
    again.close()


def test_a_folded_journal_reads_as_before(db: Database, journal: SqliteJournal) -> None:
    lines = [b'{"n": %d}' % n for n in range(2000)]
    for line in lines:
        journal.append(2, line)
    fold(journal)
    journal.append(2, b"after")

    assert journal.read(2) == [*lines, b"after"]
    assert row_count(db, 2) == 1


def test_a_crash_between_fold_and_new_log_leaves_no_line_twice(tmp_path: Path) -> None:
    db = Database(tmp_path / "journal.sqlite")
    journal = SqliteJournal(db)
    journal.append(2, b"a")
    journal.forget(2)
    before = (tmp_path / "journal.log").read_bytes()
    fold(journal)
    db.close()
    (tmp_path / "journal.log").write_bytes(before)

    again = Database(tmp_path / "journal.sqlite")
    restored = SqliteJournal(again)

    assert (restored.read(2), restored.pids()) == ([b"a"], [99])
    restored.append(2, b"b")
    assert restored.read(2) == [b"a", b"b"]
    again.close()


@pytest.mark.parametrize("folds", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_edges_are_the_first_line_and_the_last_two(
    journal: SqliteJournal, folds: int, count: int
) -> None:
    lines = [b'{"n": %d}' % n for n in range(count)]
    for number, line in enumerate(lines):
        journal.append(2, line)
        if number < folds:
            fold(journal)

    assert journal.edges(2) == (lines[0], lines[-2:])


def test_a_forgotten_process_stays_forgotten_when_the_log_is_folded(
    db: Database, journal: SqliteJournal
) -> None:
    journal.append(2, b"a")
    journal.forget(2)

    fold(journal)

    assert (journal.pids(), journal.read(2)) == ([99], [b"a"])


def test_a_journal_in_many_rows_is_compacted_when_it_is_read(
    db: Database, journal: SqliteJournal
) -> None:
    lines = []
    for number in range(MANY_ROWS + 1):
        lines.append(b"%d" % number * 1000)
        journal.append(2, lines[-1])
        fold(journal)
    before = row_count(db, 2)

    assert journal.read(2) == lines
    assert (before, row_count(db, 2)) == (MANY_ROWS + 1, -(-sum(map(len, lines)) // BLOCK_BYTES))
    journal.append(2, b"more")
    fold(journal)
    assert journal.read(2) == [*lines, b"more"]


def test_lines_are_packed_where_that_pays(db: Database, journal: SqliteJournal) -> None:
    for _ in range(100):
        journal.append(2, b'{"type": "model_call", "model": "offline/echo"}' * 10)

    fold(journal)

    (row,) = db.rows("SELECT length(line) FROM line WHERE id >> 32 = 2")
    assert row[0] < 100 * 470 / 10


def test_a_full_disk_is_enospc_and_the_line_is_not_there(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    journal.append(2, b"a")
    size = (tmp_path / "journal.log").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(NoSpaceError):
            journal.append(2, b"too long for what is left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append(2, b"b")

    assert journal.read(2) == [b"a", b"b"]


def test_the_last_lines_and_forgetting_have_space_of_their_own_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nexusfs.drivers.record_file.set_aside", full)
        db = Database(tmp_path / "j.sqlite")
        journal = SqliteJournal(db)
        journal.append(2, b"a", last=True)
        journal.append(3, b"b", last=True)
        with pytest.raises(NoSpaceError):
            journal.append(2, b"c")
        journal.forget(3)
    journal.append(2, b"d")

    assert (journal.read(2), journal.pids()) == ([b"a", b"d"], [2])
    db.close()


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    db = Database(tmp_path / "j.sqlite")
    db.run("CREATE TABLE counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL)")
    db.run("CREATE TABLE process (pid INTEGER PRIMARY KEY, forgotten BIGINT NOT NULL)")
    db.run("CREATE TABLE line (id INTEGER PRIMARY KEY, line BLOB NOT NULL)")
    db.run("INSERT INTO counter VALUES ('pid', 2)")
    db.run("INSERT INTO process VALUES (2, 0)")
    for number, line in enumerate((b"{1}", b"{2}")):
        db.run("INSERT INTO line VALUES (?, ?)", (2 << 32 | number, line))

    journal = SqliteJournal(db)
    journal.append(2, b"{3}")

    assert (journal.read(2), journal.allocate_pid()) == ([b"{1}", b"{2}", b"{3}"], 3)
    db.close()


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


def test_after_a_fold_whose_sync_failed_the_journal_is_whole_and_is_folded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(tmp_path / "j.sqlite")
    journal = SqliteJournal(db)
    lines = [b"%d " % n + b"x" * 1000 for n in range(4 * FOLD_BYTES // 1000)]
    failures = iter([True])

    def sync() -> None:
        if next(failures, False):
            raise KernelError("j.sqlite: Input/output error")

    monkeypatch.setattr(db, "sync", sync)
    for line in lines:
        journal.append(2, line)

    assert len(caplog.records) == 1 and next(failures, None) is None
    assert journal._log.end < 2 * FOLD_BYTES  # the log began anew
    assert (journal.read(2), journal.edges(2)) == (lines, (lines[0], lines[-2:]))
    journal.close()
    db.close()
    with closing(Database(tmp_path / "j.sqlite")) as again:
        assert SqliteJournal(again).read(2) == lines


def test_lines_of_a_fold_whose_sync_failed_are_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database(tmp_path / "j.sqlite")
    journal = SqliteJournal(db)

    def sync() -> None:
        raise KernelError("j.sqlite: Input/output error")

    monkeypatch.setattr(db, "sync", sync)
    lines = [b"%d " % n + b"x" * 1000 for n in range(FOLD_BYTES // 1000 + 50)]
    for line in lines:
        journal.append(2, line)

    assert db.row("SELECT COUNT(*) FROM line") == (1,)
    assert (journal.read(2), journal.edges(2)) == (lines, (lines[0], lines[-2:]))
    journal.close()
    db.close()
    with closing(Database(tmp_path / "j.sqlite")) as again:
        assert SqliteJournal(again).read(2) == lines
