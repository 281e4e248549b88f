"""The tables of the metadata store, and their version.

SQL here and in `meta_tables` is what SQLite 3.35 and PostgreSQL share.

How a snapshot becomes one row: `layer` has one row today, (1, no parent), and every inode and
edge carries (layer, version) in its key, both 1. A snapshot or a fork adds a layer row
(id, parent, cut = the parent's version) and raises the parent's version. From then on a
change in a layer updates a row of the layer's own current version in place, and otherwise
copies it with the current (layer, version) first; an edge that is removed becomes a row with
ino 0. A reader takes the row of the newest version of its layer, else that of the parent up to
`cut`. Content and xattrs hang from `inode.body`, which equals ino until such a copy is made:
copies of an inode share a body; the first that is written takes a new body and copies the
extent rows, which only adds references to the same blobs.
"""

import os
import stat as _stat
import time

from nexusfs.contracts.errors import UnavailableError
from nexusfs.contracts.store import ROOT_INO
from nexusfs.drivers.meta_body import WINDOW_BYTES
from nexusfs.drivers.sqlite import Database

SCHEMA_VERSION = 2
"""1: extents anywhere. 2: no extent crosses a window of 4 MiB, and `applied` says up to which
record of the operation journal the tables reach; the place of a large blob is its file's name."""
DIRECTORY_BYTES = 4096
"""st_size of a directory, as on ext4."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE layer (
    id BIGINT PRIMARY KEY, parent BIGINT, cut BIGINT NOT NULL, version BIGINT NOT NULL);
CREATE TABLE inode (
    ino BIGINT NOT NULL, layer BIGINT NOT NULL, version BIGINT NOT NULL, body BIGINT NOT NULL,
    mode BIGINT NOT NULL, nlink BIGINT NOT NULL, uid BIGINT NOT NULL, gid BIGINT NOT NULL,
    size BIGINT NOT NULL, atime BIGINT NOT NULL, mtime BIGINT NOT NULL, ctime BIGINT NOT NULL,
    rdev BIGINT NOT NULL, used BIGINT NOT NULL, parent BIGINT NOT NULL, target BLOB,
    PRIMARY KEY (ino, layer, version)) WITHOUT ROWID;
CREATE INDEX inode_orphan ON inode (ino) WHERE nlink = 0;
CREATE TABLE edge (
    parent BIGINT NOT NULL, name BLOB NOT NULL, layer BIGINT NOT NULL, version BIGINT NOT NULL,
    ino BIGINT NOT NULL, kind BIGINT NOT NULL,
    PRIMARY KEY (parent, name, layer, version)) WITHOUT ROWID;
CREATE TABLE extent (
    body BIGINT NOT NULL, start BIGINT NOT NULL, length BIGINT NOT NULL, data BLOB,
    digest BLOB, algorithm TEXT, blob_offset BIGINT NOT NULL,
    PRIMARY KEY (body, start)) WITHOUT ROWID;
CREATE TABLE xattr (
    body BIGINT NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (body, name)) WITHOUT ROWID;
CREATE TABLE blob (
    digest BLOB NOT NULL, algorithm TEXT NOT NULL, size BIGINT NOT NULL, place TEXT NOT NULL,
    refs BIGINT NOT NULL,
    PRIMARY KEY (digest, algorithm)) WITHOUT ROWID;
CREATE INDEX blob_dead ON blob (digest) WHERE refs = 0;
CREATE INDEX blob_place ON blob (place);
"""
"""`mode` has the type bits; `used` is stored bytes; `parent` is a directory's; times in ns."""


def prepare(db: Database) -> None:
    """Makes the tables and the root directory in a new database; upgrades those of an older one.

    Raises:
        UnavailableError: EOPNOTSUPP, a newer version of NexusFS wrote the store.
    """
    if not db.rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
        _make(db)
        return
    version = db.row("SELECT value FROM meta WHERE key = 'version'")[0]
    if version > SCHEMA_VERSION:
        raise UnavailableError(
            f"{db.path} has schema version {version}, this NexusFS knows up to "
            f"{SCHEMA_VERSION}: open it with a newer NexusFS"
        )
    if version == 1:
        _upgrade_to_2(db)


def _make(db: Database) -> None:
    now = time.time_ns()
    mode = _stat.S_IFDIR | 0o755
    with db:
        for statement in _TABLES.split(";\n"):
            db.run(statement)
        db.run("INSERT INTO meta VALUES ('version', ?)", (SCHEMA_VERSION,))
        db.run("INSERT INTO meta VALUES ('applied', 0)")
        db.run("INSERT INTO meta VALUES ('next_ino', ?)", (ROOT_INO + 1,))
        db.run("INSERT INTO layer VALUES (1, NULL, 0, 1)")
        db.run(
            "INSERT INTO inode VALUES (?, 1, 1, ?, ?, 2, ?, ?, ?, ?, ?, ?, 0, ?, ?, NULL)",
            (ROOT_INO, ROOT_INO, mode, os.getuid(), os.getgid(), DIRECTORY_BYTES, now, now, now,
             DIRECTORY_BYTES, ROOT_INO),
        )  # fmt: skip


_CROSSING = f"""
SELECT body, start, length, data, digest, algorithm, blob_offset FROM extent
WHERE start / {WINDOW_BYTES} < (start + length - 1) / {WINDOW_BYTES}
"""


def _upgrade_to_2(db: Database) -> None:
    """Cuts extents at the borders of windows; each piece of a blob names it once more."""
    with db:
        for body, start, length, data, digest, algorithm, offset in db.rows(_CROSSING):
            border = (start // WINDOW_BYTES + 1) * WINDOW_BYTES
            here = border - start  # An extent had at most 4 MiB, so it crosses one border.
            db.run(
                "UPDATE extent SET length = ?, data = ? WHERE body = ? AND start = ?",
                (here, data and data[:here], body, start),
            )
            db.run(
                "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)",
                (body, border, length - here, data and data[here:], digest, algorithm,
                 offset + here),
            )  # fmt: skip
            db.run(
                "UPDATE blob SET refs = refs + 1 WHERE digest = ? AND algorithm = ?",
                (digest, algorithm),
            )
        for digest, algorithm in db.rows("SELECT digest, algorithm FROM blob WHERE place = 'file'"):
            name = f"{algorithm}-{bytes(digest).hex()}"
            db.run("UPDATE blob SET place = ? WHERE digest = ?", (name, digest))
        db.run("CREATE INDEX blob_place ON blob (place)")
        db.run("INSERT INTO meta VALUES ('applied', 0)")
        db.run("UPDATE meta SET value = ? WHERE key = 'version'", (SCHEMA_VERSION,))
