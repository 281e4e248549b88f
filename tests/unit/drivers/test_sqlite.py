"""The SQLite dialect: transactions and errors."""

from pathlib import Path

import pytest

from nexusfs.contracts.errors import CorruptError, NoSpaceError
from nexusfs.drivers.sqlite import Database


def test_a_failed_transaction_is_rolled_back(tmp_path: Path) -> None:
    db = Database(tmp_path / "x.sqlite")
    db.run("CREATE TABLE t (a INTEGER PRIMARY KEY)")

    with pytest.raises(ZeroDivisionError), db:
        db.run("INSERT INTO t VALUES (1)")
        raise ZeroDivisionError

    assert db.rows("SELECT * FROM t") == []
    db.close()


def test_a_full_database_is_enospc_and_stays_usable(tmp_path: Path) -> None:
    db = Database(tmp_path / "x.sqlite")
    db.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    db.rows("PRAGMA max_page_count=10")

    with pytest.raises(NoSpaceError), db:
        db.run("INSERT INTO t VALUES (1, zeroblob(100000))")

    with db:
        db.run("INSERT INTO t VALUES (2, zeroblob(10))")
    assert db.row("SELECT count(*) FROM t") == (1,)
    db.close()


def test_a_file_that_is_no_database_is_eio(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"not a database at all" * 100)

    with pytest.raises(CorruptError):
        Database(tmp_path / "x.sqlite")


def test_commits_are_in_the_log_before_they_return(tmp_path: Path) -> None:
    db = Database(tmp_path / "x.sqlite")
    wal = tmp_path / "x.sqlite-wal"
    before = wal.stat().st_size

    with db:
        db.run("CREATE TABLE t (a)")

    assert wal.stat().st_size > before
    db.close()
