"""Segments: tails, holes, own files."""

import os
from pathlib import Path

import pytest

from nexusfs.contracts.errors import CorruptError, NoSpaceError
from nexusfs.contracts.store import BlobRef
from nexusfs.drivers.blob_local import LARGE_BYTES, LocalBlobs


def put(blobs: LocalBlobs, data: bytes) -> BlobRef:
    return blobs.put(blobs.digest(data), data)


class Living:
    """Blobs that are named."""

    def __init__(self, refs: list[BlobRef]) -> None:
        self._refs = refs

    def bytes_at(self, prefix: str) -> int:
        return sum(ref.size for ref in self.blobs_at(prefix, 0))

    def blobs_at(self, prefix: str, most: int) -> list[BlobRef]:
        return [ref for ref in self._refs if ref.place.startswith(prefix)]


def segment(path: Path, number: int = 1) -> Path:
    return path / f"{number:08d}.seg"


@pytest.mark.parametrize("garbage", [b"", b"x", b"NXB1", b"\0" * 5000, b"NXB1" + b"\x01" * 60])
def test_new_blobs_go_after_a_garbled_tail(tmp_path: Path, garbage: bytes) -> None:
    blobs = LocalBlobs(tmp_path)
    ref = put(blobs, b"hello")
    blobs.close()
    with segment(tmp_path).open("ab") as tail:
        tail.write(garbage)

    blobs = LocalBlobs(tmp_path)

    assert blobs.get(ref) == b"hello"
    assert blobs.get(put(blobs, b"next")) == b"next"
    assert blobs.get(ref) == b"hello"
    blobs.close()


def test_a_harmed_header_costs_no_other_blob_at_the_next_open(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    refs = [put(blobs, bytes([n]) * 100) for n in range(9)]
    blobs.close()
    with segment(tmp_path).open("r+b") as file:
        file.write(b"????")

    blobs = LocalBlobs(tmp_path)

    assert [blobs.get(ref)[0] for ref in refs] == list(range(9))
    blobs.close()


def test_what_is_put_after_a_sync_shares_no_page_with_what_was_synced(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    first = put(blobs, b"first")
    unsynced = blobs.unsynced()
    second, third = put(blobs, b"second"), put(blobs, b"third")
    blobs.synced(unsynced)
    for fd in unsynced.fds:
        os.close(fd)

    assert [ref.place for ref in (first, second, third)] == ["1:0", "1:4096", "1:4150"]
    blobs.close()


def test_a_flipped_bit_is_eio_and_named(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ref, other = put(blobs, b"A" * 5000), put(blobs, b"B" * 5000)
    with segment(tmp_path).open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff")

    with pytest.raises(CorruptError, match=ref.digest.hex()):
        blobs.get(ref)

    assert blobs.get(other) == b"B" * 5000
    blobs.close()


def test_a_blob_with_a_digest_of_another_algorithm_is_read(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.algorithm = "sha256"
    ref = put(blobs, b"of an older store")
    blobs.close()

    blobs = LocalBlobs(tmp_path)

    assert (ref.algorithm, blobs.algorithm) == ("sha256", "blake3")
    assert blobs.get(ref) == b"of an older store"
    blobs.close()


def test_a_lost_segment_is_eio(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ref = put(blobs, b"A")
    blobs.close()
    segment(tmp_path).unlink()

    with pytest.raises(CorruptError):
        LocalBlobs(tmp_path).get(ref)


def test_a_deleted_blob_gives_its_blocks_back(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ref, other = put(blobs, os.urandom(500_000)), put(blobs, b"x" * 5000)
    os.sync()
    before = segment(tmp_path).stat().st_blocks

    blobs.delete(ref)

    assert segment(tmp_path).stat().st_blocks <= before - 900
    assert blobs.get(other) == b"x" * 5000
    blobs.close()


def test_a_segment_without_live_blobs_is_removed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, segment_bytes=1000)
    refs = [put(blobs, bytes([n]) * 600) for n in range(4)]

    living = Living(refs[2:])
    for ref in refs[:2]:
        blobs.delete(ref)

    moving = blobs.reclaim(refs[:2], living, blobs.unsynced())

    assert moving == []
    assert not segment(tmp_path, 1).exists()
    assert blobs.get(refs[2]) == b"\x02" * 600
    blobs.close()


def test_blobs_that_keep_a_segment_alive_are_to_be_moved(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, segment_bytes=2000)
    refs = [put(blobs, bytes([n]) * 600) for n in range(5)]

    half = blobs.reclaim(refs[:1], Living(refs[1:]), blobs.unsynced())
    few = blobs.reclaim(refs[1:3], Living(refs[3:]), blobs.unsynced())

    assert (few, half) == ([refs[3]], [])
    blobs.close()


def test_the_segment_that_takes_blobs_is_removed_when_it_takes_no_more(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, segment_bytes=1000)
    ref = put(blobs, b"x" * 600)

    blobs.reclaim([ref], Living([]), blobs.unsynced())
    during = blobs.get(ref)
    for n in range(2):
        put(blobs, bytes([n]) * 600)
    blobs.reclaim([], Living([]), blobs.unsynced())

    assert during == b"x" * 600
    assert not segment(tmp_path, 1).exists()
    blobs.close()


def test_segments_are_opened_again_after_a_restart(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path, segment_bytes=1000)
    refs = [put(blobs, bytes([n]) * 600) for n in range(100)]
    blobs.close()

    blobs = LocalBlobs(tmp_path, segment_bytes=1000)

    assert [blobs.get(ref)[0] for ref in refs] == list(range(100))
    blobs.close()


def test_a_deleted_large_blob_removes_its_file(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ref = put(blobs, b"x" * (LARGE_BYTES + 1))
    files = list((tmp_path / "large").iterdir())

    blobs.delete(ref)

    assert len(files) == 1
    assert list((tmp_path / "large").iterdir()) == []
    blobs.close()


def test_a_full_disk_is_enospc_and_leaves_no_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobs(tmp_path)
    ref = put(blobs, b"kept")
    size = segment(tmp_path).stat().st_size

    def nearly_full(fd: int, pieces: tuple[bytes, ...], offset: int) -> int:
        return os.pwrite(fd, b"".join(pieces)[:10], offset)

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset > size:
            raise OSError(28, "No space left on device")
        return len(data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", nearly_full)
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpaceError):
            put(blobs, b"lost")

    assert segment(tmp_path).stat().st_size == size
    assert blobs.get(put(blobs, b"after")) == b"after"
    assert blobs.get(ref) == b"kept"
    blobs.close()
