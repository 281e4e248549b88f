"""A store on a full disk: ENOSPC, and reads, removals and reopening go on. Needs root."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexusfs.contracts.errors import NoSpaceError
from nexusfs.drivers.record_file import RecordFile
from nexusfs.drivers.store_local import open_store
from tests.fuse.conftest import Mounts

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted by root"),
]

DISK_BYTES = 6 << 20
PIECE = 100_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Mounts]:
    """Mounts whose stores are all on one disk of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], check=True)
    made = Mounts(disk)
    yield made
    made.close()
    subprocess.run(["umount", "-l", disk], check=True)


def fill(folder: Path, size: int = PIECE) -> list[Path]:
    """Writes files of `size` bytes until the disk is full, then of 1,000."""
    made = []
    for piece in (size, 1000):
        with contextlib.suppress(OSError):
            for number in range(100_000):
                path = folder / f"f{piece}-{number}"
                path.write_bytes(os.urandom(piece))
                made.append(path)
    return made


def enospc(path: Path) -> bool:
    try:
        path.write_bytes(os.urandom(PIECE))
    except OSError as exc:
        return exc.errno == errno.ENOSPC
    return False


@pytest.mark.parametrize("size", [3000, PIECE, 2 << 20])
def test_a_full_disk_is_enospc_and_reads_go_on(small: Mounts, size: int) -> None:
    mnt = small.mount()
    made = fill(mnt, size)

    assert enospc(mnt / "more")
    assert all(path.read_bytes() for path in made)


@pytest.mark.parametrize("size", [3000, PIECE, 2 << 20])
def test_everything_can_be_removed_from_a_full_disk_and_written_anew(
    small: Mounts, size: int
) -> None:
    mnt = small.mount()
    for _ in range(3):
        made = fill(mnt, size)
        assert len(made) > 1

        for path in mnt.glob("f*"):
            path.unlink()
        (mnt / "again").write_bytes(b"x" * 200_000)

        assert (mnt / "again").read_bytes() == b"x" * 200_000


def test_truncation_on_a_full_disk_gives_space_back(small: Mounts) -> None:
    mnt = small.mount()
    made = fill(mnt)

    for path in made[: len(made) // 2]:
        os.truncate(path, 0)

    (mnt / "more").write_bytes(os.urandom(PIECE))


@pytest.mark.parametrize("size", [3000, PIECE])
def test_a_full_store_can_be_unmounted_mounted_and_emptied(small: Mounts, size: int) -> None:
    mnt = small.mount()
    kept = {path.name: path.read_bytes() for path in fill(mnt, size) if path.exists()}
    small.umount(mnt)
    mnt = small.mount()

    found = {name: (mnt / name).read_bytes() for name in kept}
    for name in kept:
        (mnt / name).unlink()

    assert found == kept
    (mnt / "more").write_bytes(os.urandom(PIECE))


def test_a_disk_that_another_program_filled_is_enospc_and_comes_back(small: Mounts) -> None:
    mnt = small.mount()
    (mnt / "old").write_bytes(b"old")
    other = small.directory / "other"
    with contextlib.suppress(OSError), open(other, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    fill(mnt)
    assert enospc(mnt / "a")
    (mnt / "old").unlink()
    small.umount(mnt)
    mnt = small.mount()
    assert not (mnt / "old").exists()

    other.unlink()

    (mnt / "c").write_bytes(os.urandom(PIECE))


def test_a_new_store_on_a_full_disk_is_enospc(small: Mounts) -> None:
    with contextlib.suppress(OSError), open(small.directory / "other", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass

    with pytest.raises(NoSpaceError):
        open_store(small.directory / "s")


def test_last_records_have_space_that_nobody_else_can_take(small: Mounts, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    file = RecordFile(disk / "records", spare_bytes=64 << 10)
    file.append(b"a")
    fill(disk)
    taken = []
    with pytest.raises(NoSpaceError):
        for number in range(100_000):
            file.append(b"%d" % number)
            taken.append(b"%d" % number)

    for _ in range(60):
        file.append(b"l" * 1000, last=True)
    file.close()

    assert RecordFile(disk / "records").found == [b"a", *taken, *[b"l" * 1000] * 60]
