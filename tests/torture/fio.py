"""fio: patterns of writes, each block checked by its checksum when it is read back."""

import hashlib
from pathlib import Path

from tests.fuse.conftest import Mounts
from tests.torture.part import PartFailedError, Plan, check_quiet, need, run

SIZE = "24m"
JOBS: dict[str, list[str]] = {
    "seq-4k": ["--rw=write", "--bs=4k"],
    "seq-1m": ["--rw=write", "--bs=1m"],
    "rand-4k": ["--rw=randwrite", "--bs=4k"],
    "rand-64k": ["--rw=randwrite", "--bs=64k"],
    "rand-mixed": [
        "--rw=randwrite",
        "--bsrange=4k-1m",
    ],
    "rand-read-write": ["--rw=randrw", "--bs=16k"],
    "overlapping": ["--rw=randwrite", "--bs=8k", "--norandommap", "--io_size=48m"],
    "fsync-each": ["--rw=randwrite", "--bs=4k", "--fsync=1", "--size=2m"],
    "fdatasync": ["--rw=write", "--bs=128k", "--fdatasync=4"],
    "o-sync": ["--rw=randwrite", "--bs=16k", "--sync=1", "--size=4m"],
    "direct": ["--rw=randwrite", "--bs=64k", "--direct=1"],
    "mmap": ["--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--fsync=256"],
    "mmap-seq": ["--rw=write", "--bs=64k", "--ioengine=mmap"],
    "several-files": ["--rw=randwrite", "--bs=32k", "--nrfiles=20", "--openfiles=5"],
    "several-jobs": ["--rw=randwrite", "--bs=16k", "--numjobs=4", "--size=8m"],
}


def fio(plan: Plan) -> str:
    """Every pattern; read back at once, and by a second fio after a new mount."""
    need("fio", package="fio")
    mounts = Mounts(plan.directory)
    try:
        mnt = mounts.mount()
        for name, options in JOBS.items():
            (mnt / name).mkdir()
            run(*_words(name, options, plan.seed), cwd=mnt / name)
        # Not with fio's verify_only, which on ext4 too fails on several files and unaligned blocks.
        before = _sums(mnt)
        mounts.umount(mnt)
        if _sums(mounts.mount()) != before:
            raise PartFailedError("a file is not as it was before the new mount")
        check_quiet(mounts)
    finally:
        mounts.close()
    return f"{len(JOBS)} patterns, verified at once and after a new mount"


def _sums(mnt: Path) -> dict[str, str]:
    """SHA-256 of every file that fio wrote."""
    files = [path for name in JOBS for path in (mnt / name).iterdir()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _words(name: str, options: list[str], seed: int) -> list[str]:
    return [
        "fio", f"--name={name}", "--ioengine=psync", f"--size={SIZE}", "--verify=crc32c",
        "--verify_fatal=1", "--do_verify=1", f"--randseed={seed + 1}", "--verify_state_save=0",
        "--fallocate=none", "--thinktime=0", "--group_reporting", *options,
    ]  # fmt: skip
