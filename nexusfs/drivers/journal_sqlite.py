"""The agents' journals, a log of recent lines in front of SQLite, and the log of tool calls.

A line is appended to `journal.log` (record_file.py). When that has grown, its lines are folded: in
one transaction each process gets one row with all its recent lines, packed where that pays; the
transaction is made durable and the log begins anew. A line has a number, so that a crash between
the two leaves no line twice.

Keys are built so that each append goes to the right edge of one B-tree: `pid << 32 | n` for the
row that begins with line n, `uid << 31 | n` for a call (a uid has 32 bits, SQLite's integers 63
without the sign).
"""

import contextlib
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from nexusfs.contracts.errors import KernelError, NoSpaceError
from nexusfs.drivers.record_file import RecordFile
from nexusfs.drivers.sqlite import Database

log = logging.getLogger(__name__)

CALLS_KEPT = 1000
"""Per user. Source: docs/tree.md, /dispatch."""
CHECKPOINT_COMMITS = 2000
FIRST_PID = 2
"""pid 1 is the kernel."""
ENDS_BYTES = 256 << 10
"""Kept on a disk that fills up: some 400 agents can be killed, and stay so at the next mount."""
FOLD_BYTES = 1 << 20
"""Size of the log at which it is folded: read again in 10 ms after a crash."""
PACKED_BYTES = 4096
"""Lines of this size together are compressed; fewer are not worth the time."""
BLOCK_BYTES = 256 << 10
"""Lines in one row of a compacted journal."""
MANY_ROWS = 64
"""A journal in more rows is written anew in blocks when it is read."""
ROWS_AT_ONCE = 100
"""In one statement; SQLite takes 32,766 values, before 3.32 it took 999."""
LINE, FORGET, PID = 0, 1, 2
"""Kinds of records: a line, a process that is no longer listed, a pid that was given."""
_RECORD = struct.Struct("<BQI")
"""Kind, pid, number of the line among the process's; then the line."""

_JOINED, _PACKED = b"\x00", b"\x01"
"""First byte of a row of several lines; a row of a single line, as JSON, begins otherwise."""

_TABLES = """
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS process (pid INTEGER PRIMARY KEY, forgotten BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS line (id INTEGER PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS call (
    id INTEGER PRIMARY KEY, uid BIGINT NOT NULL, call_id TEXT NOT NULL, reply BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS call_by_id ON call (uid, call_id);
"""


class SqliteJournal:
    """Append-only lines for each process; see `contracts.store.Journal`."""

    def __init__(self, db: Database) -> None:
        """The journal in `db` and in the log beside it."""
        self._db = db
        _make_tables(db)
        self._recent: dict[int, list[bytes]] = {}
        self._next: dict[int, int] = {}
        self._forgotten: set[int] = set()
        row = db.row("SELECT value FROM counter WHERE name = 'pid'")
        self._last_pid = int(row[0]) if row else FIRST_PID - 1
        self._log = RecordFile(db.path.with_suffix(".log"), spare_bytes=ENDS_BYTES)
        self._fold_at = FOLD_BYTES
        self._replay()

    def append(self, pid: int, line: bytes, *, last: bool = False) -> None:
        """Adds one line; it survives kill -9 when this returns. NoSpaceError ENOSPC.

        A `last` line of an agent has space of its own on a full disk.
        """
        number = self._next.get(pid)
        if number is None:
            number = self._settled(pid)
        self._log.append(_RECORD.pack(LINE, pid, number) + line, last=last)
        self._keep(pid, number, line)
        if self._log.end >= self._fold_at:
            self._fold()

    def read(self, pid: int) -> list[bytes]:
        """All lines of a process, oldest first."""
        rows = self._rows(pid)
        lines = [line for _, row in rows for line in _lines_of(row)]
        if len(rows) > MANY_ROWS:
            with contextlib.suppress(NoSpaceError):
                self._compact(pid, lines)
        return lines + self._recent.get(pid, [])

    def edges(self, pid: int) -> tuple[bytes, list[bytes]]:
        """(first line, last two lines) of a process that has lines."""
        recent = self._recent.get(pid, [])
        first = self._edge(pid, "ASC", 1)
        last = self._edge(pid, "DESC", 2) if len(recent) < 2 else []
        return (first or recent)[0], (last + recent)[-2:]

    def pids(self) -> list[int]:
        """Processes with lines that are not forgotten, ascending."""
        rows = self._db.rows("SELECT pid FROM process WHERE forgotten = 0")
        return sorted(({row[0] for row in rows} | self._recent.keys()) - self._forgotten)

    def allocate_pid(self) -> int:
        """A pid that this store never gave before."""
        self._log.append(_RECORD.pack(PID, self._last_pid + 1, 0))
        self._last_pid += 1
        self._next[self._last_pid] = 0  # nothing of it is in rows: they need not be asked
        return self._last_pid

    def forget(self, pid: int) -> None:
        """Drops a process from `pids`; its lines stay. On a full disk too: it is gone already."""
        self._log.append(_RECORD.pack(FORGET, pid, 0), last=True)
        self._forgotten.add(pid)

    def sync(self) -> None:
        """Makes all lines durable. May run in any thread."""
        self._log.sync()

    def close(self) -> None:
        """Closes the log; what is in it is read at the next open."""
        self._log.close()

    # -- the log

    def _keep(self, pid: int, number: int, line: bytes) -> None:
        self._recent.setdefault(pid, []).append(line)
        self._next[pid] = number + 1

    def _replay(self) -> None:
        """Takes in what the log holds; what was folded before a crash is in the rows already."""
        for record in self._log.found:
            kind, pid, number = _RECORD.unpack_from(record)
            if kind == LINE:
                if pid not in self._next:
                    self._next[pid] = self._settled(pid)
                if number == self._next[pid]:
                    self._keep(pid, number, record[_RECORD.size :])
            elif kind == FORGET:
                self._forgotten.add(pid)
            else:
                self._last_pid = max(self._last_pid, pid)
        self._log.found.clear()

    def _fold(self) -> None:
        """Moves the log's lines into rows; where the disk refuses, it is tried again later.

        After a sync that failed too: then the rows are written once more, since Linux may have
        dropped what it could not write, and until then the log's lines are those that count.
        """
        try:
            with self._db:
                self._fold_rows()
            self._db.sync()
            self._log.restart()
        except KernelError as exc:
            log.error("the journal's log cannot be folded yet: %s", exc)
            self._fold_at = self._log.end + FOLD_BYTES
            return
        self._fold_at = FOLD_BYTES
        self._recent.clear()
        for pid in self._forgotten:
            self._next.pop(pid, None)
        self._forgotten.clear()
        _maintain(self._db)

    def _fold_rows(self) -> None:
        rows: list[tuple[int, bytes]] = []
        for pid, lines in self._recent.items():
            first = self._next[pid] - len(lines)
            rows.append((pid << 32 | first, _row_of(lines)))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            self._insert(
                "INSERT OR REPLACE INTO line VALUES ", "(?, ?)", [v for row in some for v in row]
            )
            pids = [key >> 32 for key, _ in some]
            self._insert("INSERT OR IGNORE INTO process VALUES ", "(?, 0)", pids)
        for pid in self._forgotten:
            self._db.run("UPDATE process SET forgotten = 1 WHERE pid = ?", (pid,))
        self._db.run(
            "INSERT INTO counter VALUES ('pid', ?) ON CONFLICT (name) DO UPDATE SET value = ?",
            (self._last_pid, self._last_pid),
        )

    def _insert(self, into: str, row: str, values: list[Any]) -> None:
        """One statement for many rows: each costs SQLite's wrapper 20 µs."""
        count = len(values) // row.count("?")
        self._db.run(into + ", ".join([row] * count), values)

    # -- the rows

    def _keys(self, pid: int) -> tuple[int, int]:
        """The keys [first, end) of the rows of a process that are not in the log too."""
        recent = self._recent.get(pid)
        end = self._next[pid] - len(recent) if recent else 1 << 32
        return pid << 32, (pid << 32) + end

    def _rows(self, pid: int) -> list[tuple[int, bytes]]:
        found = self._db.rows(
            "SELECT id, line FROM line WHERE id >= ? AND id < ? ORDER BY id", self._keys(pid)
        )
        return [(row[0], bytes(row[1])) for row in found]

    def _edge(self, pid: int, order: str, count: int) -> list[bytes]:
        """The lines of the first or the last `count` rows, oldest first."""
        rows = self._db.rows(
            f"SELECT id, line FROM line WHERE id >= ? AND id < ? ORDER BY id {order} LIMIT {count}",
            self._keys(pid),
        )
        return [line for _, row in sorted(rows) for line in _lines_of(bytes(row))]

    def _settled(self, pid: int) -> int:
        """How many lines of the process are in rows."""
        row = self._db.row(
            "SELECT id, line FROM line WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1",
            (pid << 32, (pid + 1) << 32),
        )
        return 0 if row is None else (row[0] & 0xFFFFFFFF) + len(_lines_of(bytes(row[1])))

    def _compact(self, pid: int, lines: list[bytes]) -> None:
        """Writes the rows of a process anew, as few as possible."""
        with self._db:
            self._db.run("DELETE FROM line WHERE id >= ? AND id < ?", self._keys(pid))
            for first, block in _blocks(lines):
                self._db.run("INSERT INTO line VALUES (?, ?)", (pid << 32 | first, _row_of(block)))


def _row_of(lines: list[bytes]) -> bytes:
    joined = b"\n".join(lines)
    if len(joined) < PACKED_BYTES:
        return _JOINED + joined
    return _PACKED + zlib.compress(joined, 1)


def _lines_of(row: bytes) -> list[bytes]:
    kind = row[:1]
    if kind == _PACKED:
        return zlib.decompress(row[1:]).split(b"\n")
    return row[1:].split(b"\n") if kind == _JOINED else [row]


def _blocks(lines: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first line, lines) of blocks of about BLOCK_BYTES."""
    first = size = 0
    for number, line in enumerate(lines):
        size += len(line)
        if size >= BLOCK_BYTES or number == len(lines) - 1:
            yield first, lines[first : number + 1]
            first, size = number + 1, 0


class SqliteCallLog:
    """The last replies of each user's tool calls; see `contracts.store.CallLog`."""

    def __init__(self, db: Database) -> None:
        """The log in `db`."""
        self._db = db
        _make_tables(db)

    def put(self, uid: int, call_id: str, reply: bytes) -> None:
        """Keeps a reply as the user's newest, and drops those before the last 1,000."""
        first, stop = uid << 31, (uid + 1) << 31
        with self._db:
            self._db.run("DELETE FROM call WHERE uid = ? AND call_id = ?", (uid, call_id))
            row = self._db.row(
                "SELECT MAX(id) FROM call WHERE id >= ? AND id < ?", (first, stop - 1)
            )
            number = first if row[0] is None else int(row[0]) + 1
            self._db.run("INSERT INTO call VALUES (?, ?, ?, ?)", (number, uid, call_id, reply))
            self._db.run("DELETE FROM call WHERE id >= ? AND id <= ?", (first, number - CALLS_KEPT))
        _maintain(self._db)

    def get(self, uid: int, call_id: str) -> bytes | None:
        """The reply, or None when there is none any more."""
        row = self._db.row("SELECT reply FROM call WHERE uid = ? AND call_id = ?", (uid, call_id))
        return bytes(row[0]) if row else None

    def ids(self, uid: int) -> list[str]:
        """Ids of the kept calls, newest last."""
        rows = self._db.rows(
            "SELECT call_id FROM call WHERE id >= ? AND id <= ? ORDER BY id",
            (uid << 31, ((uid + 1) << 31) - 1),
        )
        return [row[0] for row in rows]


def _make_tables(db: Database) -> None:
    with db:
        for statement in _TABLES.split(";\n"):
            db.run(statement)


def _maintain(db: Database) -> None:
    if db.commits_since_checkpoint >= CHECKPOINT_COMMITS:
        db.checkpoint()
