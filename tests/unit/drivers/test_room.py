"""A full disk without one: the reserve file, and what may go on when it is given up."""

import os
import stat
from pathlib import Path

import pytest

from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.errors import NoSpaceError, UnavailableError
from nexusfs.contracts.node import Change, NewNode
from nexusfs.contracts.store import ROOT_INO
from nexusfs.drivers import network
from nexusfs.drivers.room import Reserve, Room
from nexusfs.drivers.sqlite import SHRINK_PAGES, Database
from nexusfs.drivers.store_local import LocalStore, open_store
from nexusfs.fs.storefs import StoreFS

FILE = NewNode(stat.S_IFREG | 0o644, 0, 0)


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has nothing free beside what a store already holds."""
    monkeypatch.setattr(Reserve, "free_bytes", lambda self: 0)


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


@pytest.mark.usefixtures("no_space")
def test_a_store_without_its_reserve_removes_and_does_not_grow(tmp_path: Path) -> None:
    store = full_store(tmp_path)

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


def full_store(tmp_path: Path) -> LocalStore:
    """A store with one file on a disk that is full, its reserve given up."""
    store = open_store(tmp_path / "s")
    store.room.full = False
    store.meta.create(ROOT_INO, b"a", FILE)
    store.room.make(removing=True)
    return store


def test_a_store_grows_again_when_its_reserve_is_back(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    assert store.room.full

    store.meta.create(ROOT_INO, b"b", FILE)

    assert not store.room.full
    store.close()


def test_a_removal_that_meets_a_full_disk_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    store.meta.create(ROOT_INO, b"a", FILE)
    run, failures = Database.run, [1]

    def full_once(self: Database, sql: str, params: tuple[object, ...] = ()) -> int:
        if sql.startswith("DELETE") and failures:
            failures.pop()
            raise NoSpaceError("full")
        return run(self, sql, params)

    monkeypatch.setattr(Database, "run", full_once)

    store.meta.unlink(ROOT_INO, b"a")

    assert store.meta.readdir(ROOT_INO) == []
    store.close()


async def test_a_write_that_fails_leaves_no_blob_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s")
    node = await StoreFS(store).root.create(b"f", FILE)
    file = await node.open(KERNEL_CRED, os.O_RDWR)

    def full(*_: object) -> None:
        raise NoSpaceError("full")

    monkeypatch.setattr(store.meta, "write", full)
    with pytest.raises(NoSpaceError):
        await file.write(os.urandom(2 << 20), 0)

    assert list((tmp_path / "s" / "blobs" / "large").iterdir()) == []
    await file.release()
    store.close()


def test_making_room_does_not_start_within_itself() -> None:
    seen: list[bool] = []

    def make(removing: bool) -> bool:
        seen.append(room.make(removing=True))
        return removing

    room = Room(make)

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
