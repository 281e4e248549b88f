"""Programs in sandboxes: what one costs, and what a living one costs those who only read."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.bench.rivals import WAIT_S, Bench
from tests.bench.rows import ROUNDS, Row, duration, means

RUNS = 5
PAIRS = 40
"""Short rounds next to each other: what is looked for is 2 µs in 100."""
COST_GOAL_NS = 50e6
BWRAP = ("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev",
         "--proc", "/proc", "true")  # fmt: skip


def programs(bench: Bench) -> Iterator[Row]:
    """`true` by dispatch/exec, by bubblewrap alone, and as a bare child: each in turn."""
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: _exec(bench, ["true"]),
        "bwrap": lambda: subprocess.run(BWRAP, check=True),
        "bare": lambda: subprocess.run(["true"], check=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS * RUNS + 1):  # the first is the warm-up
        for name, way in ways.items():
            began = time.perf_counter_ns()
            way()
            if turn:
                taken[name].append(time.perf_counter_ns() - began)
    ours, bwrap, bare = (statistics.median(taken[name]) for name in ways)
    yield Row("exec true", duration(ours), f"bwrap true {duration(bwrap)}", bwrap / ours)
    yield Row(
        "exec true: cost of the sandbox", duration(ours - bare), f"bare child {duration(bare)}",
        goal="< 50 ms", met=ours - bare < COST_GOAL_NS,
    )  # fmt: skip


def living(bench: Bench) -> Iterator[Row]:
    """A status read of a person while a sandbox lives, against none; the rounds take turns."""
    target = {"nexusfs": bench.status["nexusfs"]}
    times: dict[str, list[list[int]]] = {"none": [], "one": []}
    bench.client.run("read_status", target, 1, 400)
    for _ in range(PAIRS):
        times["none"].append(bench.client.run("read_status", target, 1, 200)["nexusfs"][0])
        with _sleeping(bench):
            times["one"].append(bench.client.run("read_status", target, 1, 200)["nexusfs"][0])
    one, none = means(times["one"]), means(times["none"])
    ratio = statistics.median(n / o for n, o in zip(none, one, strict=True))
    yield Row(
        "status: open+read+close, a sandbox lives", duration(statistics.median(one)),
        f"no sandbox {duration(statistics.median(none))}", ratio, "≥ 0.9", ratio >= 0.9,
    )  # fmt: skip


def _exec(bench: Bench, command: list[str]) -> None:
    fd = os.open(bench.mnt / "dispatch/exec", os.O_RDWR)
    try:
        os.write(fd, json.dumps({"command": command}).encode())
    finally:
        os.close(fd)


@contextmanager
def _sleeping(bench: Bench) -> Iterator[None]:
    """A program that sleeps in a sandbox; closing its handle ends it."""
    fd = os.open(bench.mnt / "dispatch/exec", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b'{"command": ["sleep", "1000"]}')
    _until(bench, 1)
    time.sleep(0.05)  # its start is over
    try:
        yield
    finally:
        os.close(fd)
        _until(bench, 0)


def _until(bench: Bench, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while f"sandboxes {count}\n" not in (bench.mnt / "sys/sessions").read_text():
        if time.monotonic() > deadline:
            raise SystemExit("the sandbox does not come or go")
        time.sleep(0.01)


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {"programs": programs, "living": living}
