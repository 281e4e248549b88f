"""Segments: tails, holes, own files."""

import os
from pathlib import Path

import pytest

from nexusfs.contracts.errors import CorruptError, NoSpaceError
from nexusfs.contracts.store import BlobRef, digest_of
from nexusfs.drivers.blob_local import LARGE_BYTES, LocalBlobs


def put(blobs: LocalBlobs, data: bytes) -> BlobRef:
    return blobs.put(digest_of(blobs.algorithm, data), data)


def segment(path: Path, number: int = 1) -> Path:
    return path / f"{number:08d}.seg"


@pytest.mark.parametrize("garbage", [b"x", b"NXB1", b"\0" * 100, b"NXB1" + b"\x01" * 60])
def test_a_garbled_tail_is_cut_off_at_open(tmp_path: Path, garbage: bytes) -> None:
    blobs = LocalBlobs(tmp_path)
    ref = put(blobs, b"hello")
    blobs.close()
    good = segment(tmp_path).stat().st_size
    with segment(tmp_path).open("ab") as tail:
        tail.write(garbage)

    blobs = LocalBlobs(tmp_path)

    assert segment(tmp_path).stat().st_size == good
    assert blobs.get(ref) == b"hello"
    assert blobs.get(put(blobs, b"next")) == b"next"
    blobs.close()


def test_a_frame_that_was_half_written_is_cut_off_at_open(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    put(blobs, b"first")
    good = segment(tmp_path).stat().st_size
    put(blobs, b"second")
    blobs.close()
    with segment(tmp_path).open("r+b") as file:  # Its length is there, its bytes are not.
        file.seek(good + 50)
        file.write(b"\0\0")

    LocalBlobs(tmp_path).close()

    assert segment(tmp_path).stat().st_size == good


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

    for ref in refs[:2]:
        blobs.delete(ref)

    assert not segment(tmp_path, 1).exists()
    assert blobs.get(refs[2]) == b"\x02" * 600
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
