"""One function for each claim about control files and the daemon: from a `Bench` to rows."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.rivals import AGENT, HERE, WAIT_S, Bench, mounted, rss_mb, settled, spawn
from tests.bench.rows import ROUNDS, Row, against, duration, quantile, take

MOUNTS = 5
READERS = 300
READER_ROUNDS = 5


def status(bench: Bench) -> Iterator[Row]:
    """open + read + close of proc/<pid>/status: the main claim."""
    times = take(bench, "read_status", bench.status, 400)
    yield against(times, "plain", "status: open+read+close", 0.9)
    yield against(times, "ext4", "status: open+read+close")


def stat(bench: Bench) -> Iterator[Row]:
    """stat(2) of the same file: its size is always asked for anew."""
    times = take(bench, "stat", bench.status, 600)
    yield against(times, "plain", "status: stat", 0.9)
    yield against(times, "ext4", "status: stat")
    directories = {name: str(Path(path).parent.parent) for name, path in bench.status.items()}
    times = take(bench, "stat", directories, 2000)
    yield against(times, "ext4", "proc: stat (cached)", 0.9)


def spawning(bench: Bench) -> Iterator[Row]:
    """open, write, read the pid on that handle, close; each agent then answers once and ends."""
    spec = json.dumps({"model": "offline/echo", "task": "hello"})
    target = {"spawn": {"path": str(bench.mnt / "proc/spawn"), "spec": spec}}
    bench.client.run("spawn", target, 1, 30)
    rounds = bench.client.run("spawn", target, ROUNDS, 60)["spawn"]
    p50 = statistics.median(quantile(times, 0.5) for times in rounds)
    p99 = statistics.median(quantile(times, 0.99) for times in rounds)
    yield Row("spawn → pid: p50", duration(p50), goal="< 2 ms", met=p50 < 2e6)
    yield Row("spawn → pid: p99", duration(p99))


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
        yield Row(f"mount: ready, {kind} store", duration(ns), goal="< 1 s", met=ns < 1e9)
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
    ours = [quantile(times, 0.99) for times in crowded]
    alone = [quantile(times, 0.99) for times in free]
    ratio = statistics.median(a / o for a, o in zip(alone, ours, strict=True))
    worst = statistics.median(ours)
    yield Row(
        f"status: p99, {READERS} blocked readers", duration(worst),
        f"nobody {duration(statistics.median(alone))}", ratio, "< 10 ms", worst < 1e7,
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


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "status": status,
    "stat": stat,
    "spawn": spawning,
    "ready": ready,
    "readers": readers,
}
