"""Ordinary files, through the mount: small ones, large ones, trees; again in a store that is full.

Each row compares with ext4 in the same directory, or with the plain pyfuse3 program, whose files
are in a dict and gone with it. What the rivals do in one process is in `client`.
"""

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.in_process import FULL_DIRECTORIES, FULL_FILES, fill
from tests.bench.rivals import Bench, mounted, rss_mb
from tests.bench.rows import ROUNDS, Row, against, duration, take

SMALL_FILES = 1000
LARGE_MIB = 256
LARGE_ROUNDS = 3
GIT_FILES = 5000
GIT_ROUNDS = 3
FLOOD_MIB = 2048
FLAT_MB = 64
"""What the daemon may grow by while it takes in 2 GiB: the bounded queues and caches."""


def cached(bench: Bench) -> Iterator[Row]:
    """stat of a name and pread of an open file, both in Linux's caches."""
    yield from _cached(bench, bench.mnt, "")


def _cached(bench: Bench, mnt: Path, where: str) -> Iterator[Row]:
    targets = {"nexusfs": str(mnt / "files/cached"), "ext4": str(bench.ext4 / "files/cached")}
    for path in targets.values():
        Path(path).write_bytes(bytes(4096))
    for op, what in (("stat", "file: stat, live dentry"), ("pread", "file: pread, open, cached")):
        yield against(take(bench, op, targets, 4000), "ext4", what + where, 0.9)


def small(bench: Bench) -> Iterator[Row]:
    """1,000 files of 100 B: create, write, close, then unlink."""
    homes = {"nexusfs": bench.mnt, "plain": bench.plain, "ext4": bench.ext4}
    yield from _small(bench, homes, "")


def _small(bench: Bench, homes: dict[str, Path], where: str) -> Iterator[Row]:
    targets = {name: str(home / "files") for name, home in homes.items()}
    times: dict[str, list[list[int]]] = {name: [] for name in targets}
    parts: dict[str, dict[str, list[list[int]]]] = {"create": {}, "unlink": {}}
    reads: dict[str, list[list[int]]] = {}
    for turn in range(ROUNDS + 1):  # the first is the warm-up
        done = {
            op: bench.client.run(op, targets, 1, SMALL_FILES)
            for op in ("create", "read_small", "unlink")
        }
        for name in targets if turn else ():
            both = zip(done["create"][name][0], done["unlink"][name][0], strict=True)
            times[name].append([sum(pair) for pair in both])
            reads.setdefault(name, []).extend(done["read_small"][name])
            for op, found in parts.items():
                found.setdefault(name, []).extend(done[op][name])
    if "plain" in homes:
        yield against(times, "plain", "100 B: create+write+close+unlink", 0.8)
    yield against(times, "ext4", "100 B: create+write+close+unlink" + where)
    for op, what in (("create", "create+write+close"), ("unlink", "unlink")):
        for rival in homes.keys() - {"nexusfs"}:
            yield against(parts[op], rival, f"100 B: {what}{where}")
    yield against(reads, "ext4", f"100 B: open+read+close{where}")


def large(bench: Bench) -> Iterator[Row]:
    """256 MiB in pieces of 1 MiB: written, read with Linux's pages dropped before, and again."""
    piece = os.urandom(1 << 20)
    homes = {"nexusfs": bench.mnt, "ext4": bench.ext4}
    steps: dict[str, Callable[[Path], None]] = {
        "256 MiB: write": lambda path: _write(path, piece, LARGE_MIB),
        "256 MiB: write+fsync": lambda path: _write(path, piece, LARGE_MIB, sync=True),
        "256 MiB: read, pages dropped": _read_dropped,
        "256 MiB: read, cached": _read,
    }
    times: dict[str, dict[str, list[list[int]]]] = {what: {} for what in steps}
    for _ in range(LARGE_ROUNDS):
        for name, home in homes.items():
            path = home / "files/large"
            for what, step in steps.items():
                if "write" in what:
                    path.unlink(missing_ok=True)
                began = time.perf_counter_ns()
                step(path)
                times[what].setdefault(name, []).append([time.perf_counter_ns() - began])
            path.unlink()
    for what, found in times.items():
        yield against(found, "ext4", what)


def _write(path: Path, piece: bytes, count: int, *, sync: bool = False) -> None:
    with open(path, "wb", buffering=0) as file:
        for number in range(count):
            file.write(number.to_bytes(8, "big") + piece[8:])
        if sync:
            os.fsync(file.fileno())


def _read_dropped(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    _read(path)


def _read(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def memory(bench: Bench) -> Iterator[Row]:
    """The daemon's memory while 2 GiB are written."""
    seen: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            seen.append(rss_mb(bench.daemon_pid))

    _write(bench.mnt / "files/flood", os.urandom(1 << 20), 64)  # caches are as full as they get
    before = rss_mb(bench.daemon_pid)
    watcher = threading.Thread(target=look)
    watcher.start()
    _write(bench.mnt / "files/flood", os.urandom(1 << 20), FLOOD_MIB)
    done.set()
    watcher.join()
    (bench.mnt / "files/flood").unlink()
    grown = max(seen) - before
    yield Row(
        f"daemon: growth while {FLOOD_MIB >> 10} GiB are written", f"{grown:.0f} MB",
        f"{before:.0f} MB before", None, f"< {FLAT_MB} MB", grown < FLAT_MB,
    )  # fmt: skip


def git(bench: Bench) -> Iterator[Row]:
    """git clone of a local repository with 5,000 files, and rm -rf of the clone."""
    yield from _git(bench, bench.mnt, "")


def _git(bench: Bench, mnt: Path, where: str) -> Iterator[Row]:
    source = bench.directory / "repository"
    if not source.exists():
        _make_repository(source)
    times: dict[str, dict[str, list[list[int]]]] = {"clone": {}, "rm": {}}
    for _ in range(GIT_ROUNDS):
        for name, home in {"nexusfs": mnt, "ext4": bench.ext4}.items():
            target = home / "files/clone"
            for op, words in (
                ("clone", ["git", "clone", "-q", str(source), str(target)]),
                ("rm", ["rm", "-rf", str(target)]),
            ):
                began = time.perf_counter_ns()
                subprocess.run(words, check=True)
                times[op].setdefault(name, []).append([time.perf_counter_ns() - began])
    for op, what in (("clone", f"git clone, {GIT_FILES:,} files"), ("rm", "rm -rf of the clone")):
        yield against(times[op], "ext4", what + where)


def _make_repository(source: Path) -> None:
    for number in range(GIT_FILES):
        path = source / f"d{number % 50}/e{number % 7}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * (10 + number % 400))
    who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(source), *words], check=True)


def full(bench: Bench) -> Iterator[Row]:
    """The same with 100,000 files in the store."""
    fill(bench.directory / "store-full")
    where = f", {FULL_FILES:,} files"
    began = time.perf_counter_ns()
    with mounted(bench.directory, "full") as mnt:
        yield Row(f"mount: ready{where}", duration(time.perf_counter_ns() - began))
        (mnt / "files").mkdir(exist_ok=True)
        yield from _cached(bench, mnt, where)
        homes = {"nexusfs": mnt, "ext4": bench.ext4}
        yield from _small(bench, homes, where)
        yield from _same(bench, mnt)
        yield from _listing(bench, mnt)
        yield from _git(bench, mnt, where)
    shutil.rmtree(bench.directory / "store-full")


def _same(bench: Bench, mnt: Path) -> Iterator[Row]:
    """The small files of the nearly empty store against the full one, in turns."""
    targets = {"nexusfs": str(mnt / "files"), "empty": str(bench.mnt / "files")}
    found: dict[str, list[list[int]]] = {name: [] for name in targets}
    for _ in range(ROUNDS):
        for op in ("create", "unlink"):
            for name, times in bench.client.run(op, targets, 1, 300).items():
                found[name].extend(times)
    yield against(found, "empty", f"100 B: create, unlink, {FULL_FILES:,} files", 0.8)


def _listing(bench: Bench, mnt: Path) -> Iterator[Row]:
    """find over all files, cold, against ext4 with as many."""
    rival = bench.ext4 / "full"
    for directory in range(FULL_DIRECTORIES):
        (rival / str(directory)).mkdir(parents=True)
        for number in range(FULL_FILES // FULL_DIRECTORIES):
            (rival / str(directory) / f"f{number}").touch()
    taken = {}
    for name, path in {"nexusfs": mnt / "full", "ext4": rival}.items():
        turns = []
        for _ in range(2):
            began = time.perf_counter_ns()
            subprocess.run(["find", str(path), "-size", "+1M"], check=True)
            turns.append(time.perf_counter_ns() - began)
        taken[name] = turns
    shutil.rmtree(rival)
    for turn, what in enumerate(("first", "again")):
        ours, theirs = taken["nexusfs"][turn], taken["ext4"][turn]
        yield Row(
            f"find over {FULL_FILES:,} files: {what}", duration(ours), f"ext4 {duration(theirs)}",
            statistics.fmean([theirs]) / ours,
        )  # fmt: skip


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "cached": cached,
    "small": small,
    "large": large,
    "memory": memory,
    "git": git,
    "full": full,
}
