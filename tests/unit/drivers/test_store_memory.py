"""What the store keeps in memory: bounded, and never at the price of what is not stored."""

import os
import stat
from pathlib import Path

import pytest

from nexusfs.contracts.node import Change, NewNode
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, Extent
from nexusfs.drivers import meta_body, meta_state
from nexusfs.drivers.meta_body import WINDOW_BYTES
from nexusfs.drivers.store_local import LocalStore, open_store
from nexusfs.fs.content import Content

FILE = NewNode(stat.S_IFREG | 0o644, 0, 0)
DIR = NewNode(stat.S_IFDIR | 0o755, 0, 0)


def files(store: LocalStore, count: int, size: int, prefix: bytes = b"f") -> list[int]:
    inos = []
    for number in range(count):
        ino = store.meta.create(ROOT_INO, prefix + b"%d" % number, FILE).ino
        Content(store).write(ino, os.urandom(size), 0)
        inos.append(ino)
    return inos


def test_a_blob_that_a_flush_is_counting_is_not_forgotten_by_who_looks_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_state, "INODES_MAX", 10)
    monkeypatch.setattr(meta_state, "BLOBS_MAX", 5)
    monkeypatch.setattr(meta_state, "NAMES_MAX", 50)
    store = open_store(tmp_path / "s")
    data = os.urandom(70_000)
    first = store.meta.create(ROOT_INO, b"first", FILE).ino
    Content(store).write(first, data, 0)
    files(store, 20, 5000)
    store.flush()
    copy = store.meta.create(ROOT_INO, b"copy", FILE).ino
    Content(store).write(copy, data, 0)
    files(store, 20, 5000, b"g")

    round_ = store.begin_flush()
    round_.seal()
    round_.take()
    for entry in store.meta.readdir(ROOT_INO):
        store.meta.getattr(store.meta.lookup(ROOT_INO, entry.name))
    store.meta.unlink(ROOT_INO, b"copy")
    round_.write()
    round_.end()
    store.flush()
    store.flush()

    assert Content(store).read(first, 0, len(data)) == data
    store.close()


def test_names_of_a_removed_directory_are_asked_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_state, "NAMES_MAX", 50)
    store = open_store(tmp_path / "s")
    gone = store.meta.create(ROOT_INO, b"d", DIR).ino
    store.meta.create(gone, b"x", FILE)
    store.meta.unlink(gone, b"x")
    store.meta.rmdir(ROOT_INO, b"d")

    assert not any(store.meta.find(gone, b"no%d" % number) for number in range(200))
    store.close()


@pytest.mark.parametrize("how", ["written", "read"])
def test_small_contents_leave_memory_when_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(meta_state, "LOADED_BYTES", 100_000)
    store = open_store(tmp_path / "s")
    inos = files(store, 200, 3000)
    if how == "read":
        store.close()
        store = open_store(tmp_path / "s")
        for ino in inos:
            Content(store).read(ino, 0, 3000)
    else:
        store.flush()
        store.flush()

    held = sum(body.weight() for body in store._state._bodies.values())
    assert held <= 110_000
    assert len(Content(store).read(inos[0], 0, 3000)) == 3000
    store.close()


def test_extended_attributes_leave_memory_when_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_state, "LOADED_BYTES", 100_000)
    store = open_store(tmp_path / "s")
    value = os.urandom(3000)
    for ino in files(store, 100, 1):
        store.meta.setxattr(ino, b"user.a", value)
    store.close()
    store = open_store(tmp_path / "s")

    for number in range(100):
        ino = store.meta.lookup(ROOT_INO, b"f%d" % number)
        assert store.meta.getxattr(ino, b"user.a") == value

    held = sum(len(v) for values in store._state._xattrs.values() for v in values.values())
    assert held <= 110_000
    store.close()


def test_what_is_not_stored_yet_stays_in_memory_however_much_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_state, "LOADED_BYTES", 10_000)
    monkeypatch.setattr(meta_state, "INODES_MAX", 10)
    store = open_store(tmp_path / "s")
    inos = files(store, 50, 3000)
    store.meta.write(inos[0], [Extent(1000, 3, b"new")])

    for number in range(50):
        assert store.meta.lookup(ROOT_INO, b"f%d" % number) == inos[number]
        assert len(Content(store).read(inos[number], 0, 3000)) == 3000
    assert Content(store).read(inos[0], 1000, 1003) == b"new"
    store.close()


def test_a_large_file_is_taken_apart_after_an_open_too_and_each_piece_costs_its_size(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "s")
    ino = store.meta.create(ROOT_INO, b"large", FILE).ino
    size = 128 << 10
    for at in range(0, 100 << 20, size):
        data = b"%d" % at
        blob = store.blobs.put(store.blobs.digest(data), data)
        store.meta.write(ino, [Extent(at, size, None, blob)])
    store.close()
    store = open_store(tmp_path / "s")
    read: list[int] = []
    extents = store._tables.extents

    def counted(body: int, start: int, stop: int) -> list[Extent]:
        found = extents(body, start, stop)
        read.append(len(found))
        return found

    store._tables.extents = counted  # type: ignore[method-assign]
    store.meta.unlink(ROOT_INO, b"large")

    pieces = 1
    while store.reap():
        pieces += 1
        assert pieces < 20

    assert pieces == 7
    assert sum(read) < 3 * 800  # Once to look, once to cut.
    store.flush()
    assert store._tables.orphans() == []
    assert store._tables.extents(ino, 0, SIZE_MAX) == []
    store.close()


def test_a_file_that_is_cut_in_its_last_extent_after_an_open_has_zeros_behind_the_cut(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "s")
    (ino,) = files(store, 1, 8000)
    store.close()
    store = open_store(tmp_path / "s")

    store.meta.setattr(ino, Change(size=5))
    store.meta.setattr(ino, Change(size=10))

    assert Content(store).read(ino, 5, 10) == bytes(5)
    store.close()


def test_a_file_that_has_grown_since_it_was_opened_is_read_whole_with_few_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_body, "WINDOWS_MAX", 2)
    store = open_store(tmp_path / "s")
    (ino,) = files(store, 1, 100)
    store.close()
    store = open_store(tmp_path / "s")
    content = Content(store)
    content.write(ino, b"a", 50)
    content.write(ino, b"z", 2 * WINDOW_BYTES)
    store.flush()

    assert content.read(ino, 0, 2 * WINDOW_BYTES + 1)[-1:] == b"z"
    store.close()
