"""SQLite: connection, transactions, and its errors as ours; the dialect of `meta_tables`.

WAL, one writer. A commit writes its frames to the WAL file before it returns, so killing the
process loses nothing. With `synchronous=FULL` it also syncs the WAL: a power cut loses nothing
either. With NORMAL a power cut may lose the latest commits until `sync`, which is all that FULL
does beyond it (https://www.sqlite.org/pragma.html#pragma_synchronous); recovery keeps the
longest run of frames with good checksums that ends in a commit
(https://www.sqlite.org/walformat.html, section 4.3). fdatasync writes the file's length too.
What remains is the WAL's directory entry: the file is made at open, then the directory is
synced once; it is not removed before the last close.

`locking_mode=EXCLUSIVE` saves the lock calls of each transaction (62 against 75 µs for a
small one) and needs no shared-memory file, but allows one connection; the store's lock file
keeps other processes out.

Concurrency: a connection is used by one thread at a time; the caller sees to that. sqlite3 lets
go of the GIL while a statement runs and takes it again for each: so many rows go into one
statement, and a thread that stores thousands hardly disturbs the others.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from nexusfs.contracts.errors import (
    BusyError,
    CorruptError,
    ExistsError,
    KernelError,
    NoSpaceError,
    ReadOnlyError,
)

APPLICATION_ID = 0x4E585331
"""Marks the file as ours for file(1): "NXS1"."""
CHUNKS = (128, 32, 8, 1)
"""Rows in one statement: few different texts, so that they stay prepared; 128 rows of 15 columns
are 1,920 parameters of 32,766 (https://www.sqlite.org/limits.html)."""
SHRINK_PAGES = 64
"""Pages given back by one transaction: its log stays under a small disk's reserve."""

_ERRORS: dict[int, type[KernelError]] = {
    sqlite3.SQLITE_FULL: NoSpaceError,
    sqlite3.SQLITE_CORRUPT: CorruptError,
    sqlite3.SQLITE_NOTADB: CorruptError,
    sqlite3.SQLITE_BUSY: BusyError,
    sqlite3.SQLITE_LOCKED: BusyError,
    sqlite3.SQLITE_READONLY: ReadOnlyError,
    sqlite3.SQLITE_CONSTRAINT: ExistsError,
}


class Connection:
    """One connection to a SQLite file."""

    def __init__(self, path: Path, pragmas: Sequence[str] = ()) -> None:
        """Opens or makes the file at `path`.

        psow=0: commits to the log share no sector, so that a power cut during one does not harm
        another (https://www.sqlite.org/psow.html).
        """
        self.path = path
        try:
            self._conn = sqlite3.connect(
                f"file:{quote(str(path))}?psow=0", uri=True, isolation_level=None,
                cached_statements=256, check_same_thread=False,
            )  # fmt: skip
            for pragma in pragmas:
                self._conn.execute(f"PRAGMA {pragma}")
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, as tuples."""
        try:
            return self._conn.execute(sql, params).fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def row(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """The first row of a query as a tuple, or None."""
        try:
            return self._conn.execute(sql, params).fetchone()
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def close(self) -> None:
        """Closes the connection."""
        try:
            self._conn.close()
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: sqlite3.Error) -> KernelError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        return _ERRORS.get(code, KernelError)(f"{self.path.name}: {exc}")


class Database(Connection):
    """The connection that writes. As a context manager it is one transaction.

    A transaction that fails, also in its commit, is rolled back and raises a KernelError.
    Nothing is checkpointed by itself: the owner calls `checkpoint` at a time that suits it.
    """

    def __init__(self, path: Path, *, alone: bool = True, synchronous: str = "NORMAL") -> None:
        """Opens or makes the file at `path` and its WAL; `alone` when nobody else reads it."""
        self.commits = 0
        self.commits_since_checkpoint = 0
        super().__init__(
            path,
            (
                "auto_vacuum=INCREMENTAL",  # Only heeded in a new file: `shrink` needs it.
                f"locking_mode={'EXCLUSIVE' if alone else 'NORMAL'}",
                "journal_mode=WAL",
                f"synchronous={synchronous}",
                "wal_autocheckpoint=0",
                "cache_size=-16384",
                "temp_store=MEMORY",
                # Any write makes the WAL file, so that its directory entry can be synced now.
                f"application_id={APPLICATION_ID}",
            ),
        )
        self._wal_fd = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        fsync_directory(path.parent)

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Runs one statement and returns the number of rows changed."""
        try:
            return self._conn.execute(sql, params).rowcount
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def run_many(self, sql: str, one: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs `sql`, whose `{}` stands for many of `one` with commas, over all rows.

        For example "INSERT INTO t VALUES {}", "(?, ?)"; the statements have `CHUNKS` rows.
        """
        left = iter(rows)
        chunk = list(islice(left, CHUNKS[0]))
        while chunk:
            at = 0
            for size in CHUNKS:
                while len(chunk) - at >= size:
                    text = sql.format(", ".join([one] * size))
                    self.run(text, list(chain.from_iterable(chunk[at : at + size])))
                    at += size
            chunk = list(islice(left, CHUNKS[0]))

    def run_alone(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Runs one statement as a transaction of its own; cheaper than `with`."""
        self.run(sql, params)
        self.commits += 1
        self.commits_since_checkpoint += 1

    def __enter__(self) -> None:
        self.run("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is not None:
            self._rollback()
            return
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            raise self._translated(error) from error
        self.commits += 1
        self.commits_since_checkpoint += 1

    def checkpoint(self) -> None:
        """Moves the WAL's frames to the database file; SQLite syncs both."""
        self.commits_since_checkpoint = 0
        self.rows("PRAGMA wal_checkpoint(PASSIVE)")

    def shrink(self) -> None:
        """Checkpoints, and gives the disk what log and file no longer need. NoSpaceError."""
        self.commits_since_checkpoint = 0
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        unused = self.row("PRAGMA freelist_count")[0]
        while unused >= SHRINK_PAGES:
            self.rows(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
            self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
            before, unused = unused, self.row("PRAGMA freelist_count")[0]
            if unused >= before:
                return  # A file of an older version cannot.

    def sync(self) -> None:
        """Makes all commits durable. Blocks; may run in any thread."""
        try:
            os.fdatasync(self._wal_fd)
        except OSError as exc:
            raise KernelError(f"{self.path.name}: {exc.strerror}") from exc

    def close(self) -> None:
        """Checkpoints, if nobody else has it open, and closes; the WAL file is removed then."""
        os.close(self._wal_fd)
        super().close()

    def _rollback(self) -> None:
        if self._conn.in_transaction:  # SQLite has already rolled back after some errors.
            self._conn.execute("ROLLBACK")


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
