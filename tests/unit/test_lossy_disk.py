"""The disk of the power-cut tests keeps what was synced, and may lose the rest."""

import random
import stat
from pathlib import Path

from tests.torture.lossy import PAGE, Disk, Inode, survivor


def file_with(*events: tuple[int, bytes | None], synced: bytes = b"") -> Inode:
    inode = Inode(2, stat.S_IFREG | 0o644)
    inode.event(0, synced)
    inode.sync()
    for event in events:
        inode.event(*event)
    return inode


def survivors(inode: Inode, *, garble: bool = False) -> set[bytes]:
    return {survivor(inode, random.Random(seed), garble=garble) for seed in range(300)}


def test_what_was_synced_survives_every_cut() -> None:
    inode = file_with(synced=b"x" * 10_000)

    assert survivors(inode) == survivors(inode, garble=True) == {b"x" * 10_000}


def test_later_pages_survive_in_any_order() -> None:
    inode = file_with((0, b"new"), (PAGE, b"new"), synced=b"old".ljust(PAGE) + b"old")

    found = {(left[:3], left[PAGE : PAGE + 3]) for left in survivors(inode)}

    assert found == {(a, b) for a in (b"old", b"new") for b in (b"old", b"new")}


def test_a_grown_file_has_zeros_where_a_page_was_lost() -> None:
    assert survivors(file_with((0, b"data"))) == {b"", bytes(4), b"data"}


def test_a_cut_file_has_its_old_or_its_new_size() -> None:
    assert survivors(file_with((2, None), synced=b"12345")) == {b"12", b"12345"}


def test_garbage_is_only_where_something_was_not_synced() -> None:
    synced = b"x" * (2 * PAGE + 100)
    inode = file_with((len(synced), b"tail" * 1000), synced=synced)

    found = survivors(inode, garble=True)

    assert all(left.startswith(synced) for left in found)
    assert len(found) > 10


def test_names_survive_as_of_some_moment_after_the_last_sync(tmp_path: Path) -> None:
    disk = Disk()
    for name in (b"a", b"b", b"c"):
        disk.change((1, name, disk.add(stat.S_IFREG | 0o644).ino))
        if name == b"a":
            disk.sync_names(1)

    for seed in range(100):
        disk.cut(tmp_path / str(seed), seed, garble=False)

    found = {"".join(sorted(p.name for p in top.iterdir())) for top in tmp_path.iterdir()}
    assert found == {"a", "ab", "abc"}
