"""The tables of the metadata store, and their version.

SQL here and in `meta_sql` is what SQLite 3.35 and PostgreSQL share.

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

from nexusfs.contracts.errors import UnavailableError
from nexusfs.drivers.sqlite import Database

SCHEMA_VERSION = 1

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
"""
"""`mode` has the type bits; `used` is stored bytes; `parent` is a directory's; times in ns."""


def prepare(db: Database) -> bool:
    """Makes the tables in a new database; returns True when it did.

    Raises:
        UnavailableError: EOPNOTSUPP, a newer version of NexusFS wrote the store.
    """
    if not db.rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
        with db:
            for statement in _TABLES.split(";\n"):
                db.run(statement)
            db.run("INSERT INTO meta VALUES ('version', ?)", (SCHEMA_VERSION,))
            db.run("INSERT INTO layer VALUES (1, NULL, 0, 1)")
        return True
    version = db.row("SELECT value FROM meta WHERE key = 'version'")[0]
    if version > SCHEMA_VERSION:
        raise UnavailableError(
            f"{db.path} has schema version {version}, this NexusFS knows up to "
            f"{SCHEMA_VERSION}: open it with a newer NexusFS"
        )
    return False
