"""A full disk without one: the reserve file, and what may go on when it is given up."""

import errno
import os
import stat
from pathlib import Path

import pytest

from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.errors import CorruptError, NoSpaceError, UnavailableError
from nexusfs.contracts.node import Change, NewNode
from nexusfs.contracts.store import ROOT_INO, BlobRef
from nexusfs.drivers import network
from nexusfs.drivers.room import CHANGE_BYTES, Reserve, Room
from nexusfs.drivers.sqlite import SHRINK_PAGES, Database
from nexusfs.drivers.store_local import LocalStore, open_store
from nexusfs.fs.storefs import StoreFS

FILE = NewNode(stat.S_IFREG | 0o644, 0, 0)


class Disk:
    """How much the disk of the store says that it has free."""

    def __init__(self) -> None:
        self.free_bytes = 1 << 30


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk whose free space is what the test says."""
    disk = Disk()
    monkeypatch.setattr(Reserve, "free_bytes", lambda self: disk.free_bytes)
    return disk


def test_a_store_holds_a_reserve_and_keeps_it_over_a_close(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    held = os.stat(tmp_path / "s" / "reserve").st_blocks * 512
    store.close()

    assert held >= 1 << 20
    assert os.stat(tmp_path / "s" / "reserve").st_blocks * 512 == held


def test_a_reserve_comes_back_only_where_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = Reserve(tmp_path)
    assert reserve.restore()
    reserve.release()
    assert not reserve.held

    with monkeypatch.context() as patch:
        patch.setattr(Reserve, "free_bytes", lambda self: self.size_bytes - 1)
        assert not reserve.restore()
    assert reserve.restore()


def test_a_store_without_its_reserve_removes_and_does_not_grow(tmp_path: Path, disk: Disk) -> None:
    store = full_store(tmp_path, disk)

    with pytest.raises(NoSpaceError):
        store.meta.create(ROOT_INO, b"b", FILE)
    with pytest.raises(NoSpaceError):
        store.meta.link(ROOT_INO, b"b", store.meta.lookup(ROOT_INO, b"a"))
    with pytest.raises(NoSpaceError):
        store.meta.setxattr(ROOT_INO, b"user.a", b"a")
    store.meta.setattr(store.meta.lookup(ROOT_INO, b"a"), Change(size=0))
    store.meta.unlink(ROOT_INO, b"a")

    assert store.meta.statfs().bavail == 0
    store.close()


def full_store(tmp_path: Path, disk: Disk) -> LocalStore:
    """A store with one file on a disk that is full, its reserve given up."""
    store = open_store(tmp_path / "s")
    store.meta.create(ROOT_INO, b"a", FILE)
    disk.free_bytes = 0
    store.room.make(removing=True)
    return store


def test_a_store_grows_again_when_its_reserve_is_back(tmp_path: Path, disk: Disk) -> None:
    store = full_store(tmp_path, disk)
    assert store.room.full
    disk.free_bytes = 1 << 30

    store.meta.create(ROOT_INO, b"b", FILE)

    assert not store.room.full
    store.close()


def test_nothing_is_let_in_that_the_next_flush_has_no_room_for(tmp_path: Path, disk: Disk) -> None:
    store = open_store(tmp_path / "s")
    disk.free_bytes = 10 * CHANGE_BYTES
    store.flush()
    store.room.flushed(0)

    with pytest.raises(NoSpaceError):
        for n in range(100):
            store.meta.create(ROOT_INO, b"%d" % n, FILE)
            disk.free_bytes -= CHANGE_BYTES

    assert 1 < len(store.meta.readdir(ROOT_INO)) < 10
    assert store.room.waiting_bytes <= 10 * CHANGE_BYTES
    store.close()


def test_a_flush_that_meets_a_full_disk_takes_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    store.meta.create(ROOT_INO, b"a", FILE)
    run, failures = Database.run, [1]

    def full_once(self: Database, sql: str, params: tuple[object, ...] = ()) -> int:
        if "INSERT INTO edge" in sql and failures:
            failures.pop()
            raise NoSpaceError("full")
        return run(self, sql, params)

    monkeypatch.setattr(Database, "run", full_once)

    store.flush()

    assert store.room.full and not store._reserve.held
    store.meta.unlink(ROOT_INO, b"a")
    store.close()


def test_a_journal_that_is_full_is_enospc_and_takes_the_reserve_for_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    store.meta.create(ROOT_INO, b"a", FILE)
    pwrite, failures = os.pwrite, [1]

    def full(fd: int, data: bytes, offset: int) -> int:
        if failures and "ops." in os.readlink(f"/proc/self/fd/{fd}"):
            failures.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)

    store.meta.unlink(ROOT_INO, b"a")

    assert store.meta.readdir(ROOT_INO) == []
    store.close()


async def test_a_write_that_fails_leaves_no_blob_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    node = await StoreFS(store).root.create(b"f", FILE)
    file = await node.open(KERNEL_CRED, os.O_RDWR)

    put = store.blobs.put
    done: list[BlobRef] = []

    def full(digest: bytes, data: bytes) -> BlobRef:
        if len(done) > 1:
            raise NoSpaceError("full")
        done.append(put(digest, data))
        return done[-1]

    monkeypatch.setattr(store.blobs, "put", full)
    with pytest.raises(NoSpaceError):
        await file.write(os.urandom(3 << 20), 0)

    for ref in done:
        with pytest.raises(CorruptError):
            store.blobs.get(ref)
    await file.release()
    store.close()


def test_making_room_does_not_start_within_itself(tmp_path: Path) -> None:
    seen: list[bool] = []

    def make(removing: bool) -> bool:
        seen.append(room.make(removing=True))
        return removing

    room = Room(Reserve(tmp_path), make)

    assert room.make(removing=True)
    assert seen == [False]


def test_shrinking_gives_unused_pages_to_the_disk(tmp_path: Path) -> None:
    db = Database(tmp_path / "d.sqlite")
    with db:
        db.run("CREATE TABLE t (a BLOB)")
        for _ in range(SHRINK_PAGES * 4):
            db.run("INSERT INTO t VALUES (?)", (bytes(4000),))
    db.shrink()
    before = os.stat(db.path).st_size
    with db:
        db.run("DELETE FROM t")

    db.shrink()

    assert os.stat(db.path).st_size < before / 3
    assert os.stat(f"{db.path}-wal").st_size == 0
    db.close()


@pytest.mark.parametrize(("number", "name"), [(0x6969, "NFS"), (0xFF534D42, "CIFS")])
def test_a_store_on_a_network_filesystem_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    monkeypatch.setattr(network, "filesystem_type", lambda _: number)

    with pytest.raises(UnavailableError, match=rf"network filesystem \({name}\).*local disk"):
        open_store(tmp_path / "s")


@pytest.mark.parametrize("kind", ["fuse.sshfs", "fuse.nexusfs"])
def test_a_store_on_a_fuse_program_over_a_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(network, "filesystem_type", lambda _: network.FUSE_TYPE)
    monkeypatch.setattr(network, "_mounted_type", lambda _: kind)

    with pytest.raises(UnavailableError, match=kind):
        open_store(tmp_path / "s")


def test_local_disks_are_not_refused(tmp_path: Path) -> None:
    network.refuse_network(tmp_path)

    assert network.filesystem_type(tmp_path) > 0
