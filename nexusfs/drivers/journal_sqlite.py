"""The agents' journals and the log of tool calls, in one SQLite file.

Keys are built so that each append goes to the right edge of one B-tree: `pid << 32 | n` for a
line, `uid << 31 | n` for a call (a uid has 32 bits, SQLite's integers 63 without the sign).
"""

from nexusfs.drivers.sqlite import Database

CALLS_KEPT = 1000
"""Per user. Source: docs/tree.md, /dispatch."""
CHECKPOINT_COMMITS = 2000
FIRST_PID = 2
"""pid 1 is the kernel."""

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
        """The journal in `db`."""
        self._db = db
        self._next_line: dict[int, int] = {}
        _make_tables(db)

    def append(self, pid: int, line: bytes) -> None:
        """Adds one line; it survives kill -9 when this returns."""
        number = self._next_line.get(pid)
        if number is None:
            number = self._register(pid)
        self._db.run_alone("INSERT INTO line VALUES (?, ?)", (pid << 32 | number, line))
        self._next_line[pid] = number + 1
        _maintain(self._db)

    def read(self, pid: int) -> list[bytes]:
        """All lines of a process, oldest first."""
        rows = self._db.rows(
            "SELECT line FROM line WHERE id >= ? AND id < ? ORDER BY id",
            (pid << 32, (pid + 1) << 32),
        )
        return [bytes(row[0]) for row in rows]

    def pids(self) -> list[int]:
        """Processes with lines that are not forgotten, ascending."""
        rows = self._db.rows("SELECT pid FROM process WHERE forgotten = 0 ORDER BY pid")
        return [row[0] for row in rows]

    def allocate_pid(self) -> int:
        """A pid that this store never gave before."""
        with self._db:
            self._db.run(
                "INSERT INTO counter VALUES ('pid', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + 1",
                (FIRST_PID,),
            )
            row = self._db.row("SELECT value FROM counter WHERE name = 'pid'")
        return int(row[0])

    def forget(self, pid: int) -> None:
        """Drops a process from `pids`; its lines stay."""
        self._db.run_alone("UPDATE process SET forgotten = 1 WHERE pid = ?", (pid,))

    def sync(self) -> None:
        """Makes all lines durable. May run in any thread."""
        self._db.sync()

    def _register(self, pid: int) -> int:
        """Lists the process; returns the number of its next line."""
        self._db.run_alone("INSERT INTO process VALUES (?, 0) ON CONFLICT (pid) DO NOTHING", (pid,))
        row = self._db.row(
            "SELECT MAX(id) FROM line WHERE id >= ? AND id < ?", (pid << 32, (pid + 1) << 32)
        )
        return 0 if row[0] is None else (int(row[0]) & 0xFFFFFFFF) + 1


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
