"""One function for each claim: from a `Bench` to rows of the table.

Ratios are speeds: 2.0 means that ours takes half the time of the rival. A ratio is the median
over the rounds of the ratio within a round; the times beside it are medians over the rounds.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.rivals import AGENT, HERE, WAIT_S, Bench, mounted, rss_mb, settled, spawn

ROUNDS = 9
MOUNTS = 5
READERS = 300
READER_ROUNDS = 5
BIG_DIRECTORY = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `met` is None where there is no goal."""

    what: str
    ours: str
    rival: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def status(bench: Bench) -> Iterator[Row]:
    """open + read + close of proc/<pid>/status: the main claim."""
    times = _rounds(bench, "read_status", bench.status, 400)
    yield _against(times, "plain", "status: open+read+close", 0.9)
    yield _against(times, "ext4", "status: open+read+close")


def stat(bench: Bench) -> Iterator[Row]:
    """stat(2) of the same file: its size is always asked for anew."""
    times = _rounds(bench, "stat", bench.status, 600)
    yield _against(times, "plain", "status: stat", 0.9)
    yield _against(times, "ext4", "status: stat")
    directories = {name: str(Path(path).parent.parent) for name, path in bench.status.items()}
    times = _rounds(bench, "stat", directories, 2000)
    yield _against(times, "ext4", "proc: stat (cached)", 0.9)


def spawning(bench: Bench) -> Iterator[Row]:
    """open, write, read the pid on that handle, close; each agent then answers once and ends."""
    spec = json.dumps({"model": "offline/echo", "task": "hello"})
    target = {"spawn": {"path": str(bench.mnt / "proc/spawn"), "spec": spec}}
    bench.client.run("spawn", target, 1, 30)
    rounds = bench.client.run("spawn", target, ROUNDS, 60)["spawn"]
    p50 = statistics.median(_quantile(times, 0.5) for times in rounds)
    p99 = statistics.median(_quantile(times, 0.99) for times in rounds)
    yield Row("spawn → pid: p50", _time(p50), goal="< 2 ms", met=p50 < 2e6)
    yield Row("spawn → pid: p99", _time(p99))


def ready(bench: Bench) -> Iterator[Row]:
    """`nexusfs mount` until it returns, and the daemon's memory then."""
    times: dict[str, list[float]] = {"new": [], "existing": []}
    memory = []
    for turn in range(MOUNTS):
        for taken in times.values():
            began = time.perf_counter_ns()
            with mounted(bench.directory, f"ready-{turn}") as mnt:
                taken.append(time.perf_counter_ns() - began)
                pid = json.loads((mnt / "sys/mounts").read_text().splitlines()[0])["pid"]
                memory.append(rss_mb(pid))
    for kind, taken in times.items():
        ns = statistics.median(taken)
        yield Row(f"mount: ready, {kind} store", _time(ns), goal="< 1 s", met=ns < 1e9)
    mb = statistics.median(memory)
    yield Row("daemon: memory after mount", f"{mb:.0f} MB", goal="< 80 MB", met=mb < 80)


def readers(bench: Bench) -> Iterator[Row]:
    """p99 of a status read with and without blocked readers."""
    target = {"nexusfs": bench.status["nexusfs"]}
    free, crowded = [], []
    for _ in range(READER_ROUNDS):
        free.append(bench.client.run("read_status", target, 1, 500)["nexusfs"][0])
        with _blocked_readers(bench):
            crowded.append(bench.client.run("read_status", target, 1, 500)["nexusfs"][0])
    ours = [_quantile(times, 0.99) for times in crowded]
    alone = [_quantile(times, 0.99) for times in free]
    ratio = statistics.median(a / o for a, o in zip(alone, ours, strict=True))
    worst = statistics.median(ours)
    yield Row(
        f"status: p99, {READERS} blocked readers", _time(worst),
        f"nobody {_time(statistics.median(alone))}", ratio, "< 10 ms", worst < 1e7,
    )  # fmt: skip


@contextmanager
def _blocked_readers(bench: Bench) -> Iterator[None]:
    """Readers that wait for the end of an agent, which is killed at the end."""
    pid = spawn(bench.mnt, AGENT)
    settled(bench.mnt, pid)
    home = bench.mnt / f"proc/{pid}"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "readers.py"), str(READERS),
         str(home / "wait"), str(home / "events_pipe")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + WAIT_S
    while _blocked(bench.mnt) < READERS:
        if time.monotonic() > deadline:
            raise SystemExit("the readers do not block")
        time.sleep(0.02)
    try:
        yield
    finally:
        (home / "ctl").write_text("kill\n")
        process.communicate(timeout=WAIT_S)


def _blocked(mnt: Path) -> int:
    lines = (mnt / "sys/sessions").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("blocked_calls "))


def files(bench: Bench) -> Iterator[Row]:
    """Small ordinary files: an indication; the issue on files has its own goals."""
    homes = {"nexusfs": bench.mnt, "plain": bench.plain, "ext4": bench.ext4}
    targets = {name: str(home / "files") for name, home in homes.items()}
    found: dict[str, dict[str, list[list[int]]]] = {"create": {}, "read_small": {}}
    for turn in range(ROUNDS + 1):  # the first is the warm-up
        for op in ("create", "read_small", "unlink"):
            for name, rounds in bench.client.run(op, targets, 1, BIG_DIRECTORY).items():
                if turn and op in found:
                    found[op].setdefault(name, []).extend(rounds)
    for op, what in (("create", "1 KiB: create+write+close"),
                     ("read_small", "1 KiB: open+read+close")):  # fmt: skip
        yield _against(found[op], "plain", what)
        yield _against(found[op], "ext4", what)


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "status": status,
    "stat": stat,
    "spawn": spawning,
    "ready": ready,
    "readers": readers,
    "files": files,
}


def _rounds(
    bench: Bench, op: str, targets: dict[str, str], count: int
) -> dict[str, list[list[int]]]:
    bench.client.run(op, targets, 1, count)
    return bench.client.run(op, targets, ROUNDS, count)


def _against(
    times: dict[str, list[list[int]]], rival: str, what: str, goal: float | None = None
) -> Row:
    ours, theirs = _means(times["nexusfs"]), _means(times[rival])
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    return Row(
        what, _time(statistics.median(ours)), f"{rival} {_time(statistics.median(theirs))}", ratio,
        "" if goal is None else f"≥ {goal:g}", None if goal is None else ratio >= goal,
    )  # fmt: skip


def _means(rounds: Sequence[Sequence[int]]) -> list[float]:
    return [statistics.fmean(times) for times in rounds]


def _quantile(times: Sequence[int], part: float) -> int:
    return sorted(times)[min(int(part * len(times)), len(times) - 1)]


def _time(ns: float) -> str:
    if ns < 1e6:
        return f"{ns / 1e3:.1f} µs" if ns < 1e5 else f"{ns / 1e3:.0f} µs"
    return f"{ns / 1e6:.2f} ms" if ns < 1e8 else f"{ns / 1e9:.2f} s"
