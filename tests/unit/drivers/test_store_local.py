"""The directory of a store: lock, version, mode, durability by the words of the system calls."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nexusfs.contracts.errors import BusyError, UnavailableError
from nexusfs.contracts.node import NewNode
from nexusfs.contracts.store import ROOT_INO, Extent
from nexusfs.drivers.store_local import open_store

FILE = NewNode(stat.S_IFREG | 0o644, 0, 0)


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()

    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700


def test_a_second_open_is_ebusy_and_names_the_owner(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")

    with pytest.raises(BusyError, match=f"pid {os.getpid()} on"):
        open_store(tmp_path / "s")

    store.close()


def test_a_closed_store_can_be_opened_again(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()

    open_store(tmp_path / "s").close()


def test_a_store_of_a_newer_version_is_refused_and_not_harmed(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    path = tmp_path / "s" / "meta.sqlite"
    conn = sqlite3.connect(path)
    conn.execute("UPDATE meta SET value = 99 WHERE key = 'version'")
    conn.commit()
    conn.close()

    with pytest.raises(UnavailableError, match="newer NexusFS"):
        open_store(tmp_path / "s")
    with pytest.raises(UnavailableError, match="version 99"):  # The lock was given back.
        open_store(tmp_path / "s")


def test_a_sync_without_changes_opens_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.sync()
    before = len(os.listdir("/proc/self/fd"))

    ticket = store.begin_sync()

    assert len(os.listdir("/proc/self/fd")) == before
    store.end_sync(ticket)
    store.close()


def test_a_round_that_was_left_is_finished_by_the_next(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    before = len(os.listdir("/proc/self/fd"))
    store.meta.create(ROOT_INO, b"a", FILE)
    store.begin_sync()
    store.meta.create(ROOT_INO, b"b", FILE)

    store.sync()

    assert len(os.listdir("/proc/self/fd")) == before
    store.close()


def test_many_changes_are_checkpointed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")

    for n in range(60):
        for m in range(500):
            store.meta.create(ROOT_INO, b"%d-%d" % (n, m), FILE)
        store.flush()

    assert (tmp_path / "s" / "meta.sqlite-wal").stat().st_size < 16 << 20
    store.close()


def test_a_closed_store_leaves_an_empty_journal(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.meta.create(ROOT_INO, b"a", FILE)
    before = [(tmp_path / "s" / name).stat().st_size for name in ("ops.0", "ops.1")]

    store.close()

    assert max(before) > 0
    assert [(tmp_path / "s" / name).stat().st_size for name in ("ops.0", "ops.1")] == [0, 0]


def test_a_sync_makes_the_journal_durable_and_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fdatasync(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    store = open_store(tmp_path / "s")
    made = store.meta.create(ROOT_INO, b"a", FILE)
    data = os.urandom(100_000)
    blob = store.blobs.put(store.blobs.digest(data), data)
    store.meta.write(made.ino, [Extent(0, len(data), None, blob)])
    monkeypatch.setattr(os, "fdatasync", fdatasync)

    store.sync()
    store.sync()

    assert synced == ["00000001.seg", "ops.0"]
    store.close()


_WRITER = """
import os, stat, sys, trio
from pathlib import Path
from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.node import Change, NewNode
from nexusfs.drivers.store_local import open_store
from nexusfs.fs.storefs import StoreFS

FILE = NewNode(stat.S_IFREG | 0o644, 0, 0)
store = open_store(Path(sys.argv[1]))
root = StoreFS(store).root

async def main():
    n = 0
    while True:
        node = await root.create(b"f%d" % n, FILE)
        file = await node.open(KERNEL_CRED, os.O_WRONLY | os.O_APPEND)
        await file.write(b"%d," % n * (1 + n % 7 * 500), 0)
        await file.write(b"end", 0)
        await file.release()
        if n % 3 == 0:
            await root.rename(b"f%d" % n, root, b"r%d" % n, 0)
        if n % 5 == 0:
            await node.setattr(Change(size=4))
        store.journal.append(2, b"%d" % n)
        os.write(1, b"%d\\n" % n)
        n += 1

trio.run(main)
"""


@pytest.mark.parametrize("acknowledged", [1, 40, 300])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path / "s")], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    for _ in range(acknowledged):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    last = int((writer.stdout.read().splitlines() or [b"%d" % (acknowledged - 1)])[-1])
    writer.wait()
    writer.stdout.close()

    store = open_store(tmp_path / "s")

    found = {e.name: store.meta.getattr(e.ino) for e in store.meta.readdir(ROOT_INO)}
    for n in range(last + 1):
        size = 4 if n % 5 == 0 else len(b"%d," % n * (1 + n % 7 * 500)) + 3
        assert found[b"r%d" % n if n % 3 == 0 else b"f%d" % n].size == size
    assert store.journal.read(2)[: last + 1] == [b"%d" % n for n in range(last + 1)]
    for entry in store.meta.readdir(ROOT_INO):
        for extent in store.meta.extents(entry.ino, 0, 1 << 20):
            assert extent.data or (extent.blob and store.blobs.get(extent.blob))
    store.close()
