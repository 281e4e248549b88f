"""What a store refuses, and how it says so: bad blobs, and places where it cannot be.

Nothing is assumed of the store's files but that content lies in them as it was written.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import errno_of

pytestmark = pytest.mark.fuse

VICTIM_BYTES = 300_000


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mounts]:
    made = Mounts(tmp_path)
    yield made
    made.close()


def places(store: Path, content: bytes) -> list[tuple[Path, int]]:
    """Where in which files of a store a content begins."""
    found = []
    for top, _, names in os.walk(store):
        for path in (Path(top) / name for name in names):
            at = path.read_bytes().find(content[:512])
            if at >= 0:
                found.append((path, at))
    return found


def flip_a_bit(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at + 1000)
        (byte,) = file.read(1)
        file.seek(at + 1000)
        file.write(bytes([byte ^ 4]))


def lose(path: Path, at: int) -> None:
    """Takes a blob away: its file, or its place in one."""
    if at == 0 and path.stat().st_size == VICTIM_BYTES:
        path.unlink()
        return
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes(100_000))


@pytest.mark.parametrize("harm", [flip_a_bit, lose])
def test_a_bad_blob_is_eio_and_named_in_the_log_and_the_rest_reads(
    own: Mounts, harm: Callable[[Path, int], None]
) -> None:
    mnt = own.mount()
    good, bad = os.urandom(VICTIM_BYTES), os.urandom(VICTIM_BYTES)
    (mnt / "before").write_bytes(good[:1000])
    (mnt / "victim").write_bytes(bad)
    (mnt / "after").write_bytes(good)
    ino = (mnt / "victim").stat().st_ino
    own.umount(mnt)
    found = places(own.store(), bad)
    assert found, "the content is nowhere in the store as it was written"
    for path, at in found:
        harm(path, at)

    mnt = own.mount()

    assert errno_of((mnt / "victim").read_bytes) == "EIO"
    assert (mnt / "before").read_bytes() == good[:1000]
    assert (mnt / "after").read_bytes() == good
    log = (own.store() / "nexusfs.log").read_text()
    assert any(" ERROR " in line and f"-inum {ino}" in line for line in log.splitlines())
    assert "crashes_total 0" in (mnt / "sys/metrics").read_text()


def test_a_file_with_a_bad_blob_can_be_written_anew_and_removed(own: Mounts) -> None:
    mnt = own.mount()
    bad = os.urandom(VICTIM_BYTES)
    for name in ("one", "other"):
        (mnt / name).write_bytes(bad)
    own.umount(mnt)
    for path, at in places(own.store(), bad):
        flip_a_bit(path, at)
    mnt = own.mount()

    (mnt / "one").write_bytes(b"new")
    (mnt / "other").unlink()

    assert (mnt / "one").read_bytes() == b"new"
    assert sorted(set(os.listdir(mnt)) & {"one", "other"}) == ["one"]


def test_a_store_inside_a_mount_is_refused_in_one_line(own: Mounts) -> None:
    mnt = own.mount("a")
    (own.directory / "mnt-b").mkdir()

    done = own.run("mount", str(own.directory / "mnt-b"), "--store", str(mnt / "store"))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "network filesystem" in done.stderr
    assert not (own.directory / "mnt-b").is_mount()
    (mnt / "still").write_text("works")
