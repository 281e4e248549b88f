"""Fan-out through the mount: delegate to workers, wait for all, read each result."""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.agents import FRAMEWORKS, framework, roomy
from tests.bench.rivals import Bench
from tests.bench.rows import ROUNDS, Row, duration, quantile

WORKERS, TIMES = 10, 12
FEW, MANY = 100, 1000
GOAL, GOAL_NS = 1.5, 10e6
"""p50 of ours is at most so many times the plain program's, and so many ns more."""
LOOKS: list[dict[str, Any]] = [
    {"tool_calls": [{"name": "list_dir", "arguments": {"path": "/bin"}}]},
    {"content": "done"},
]


def fan_out(bench: Bench) -> Iterator[Row]:
    """10 workers, from the first delegate to the last result, against the same system calls."""
    plain = _target(bench.plain, "offline/echo", WORKERS) | {"task_id": 2}
    for turns, what in ((LOOKS[1:], "a turn"), (LOOKS, "two turns and a tool")):
        with roomy(bench.directory, f"fan-out-{len(turns)}") as mnt:
            ours = _target(mnt, _model(bench.directory, turns), WORKERS)
            bench.client.run("fan_out", {"nexusfs": ours}, 1, 3)
            times = bench.client.run("fan_out", {"nexusfs": ours, "plain": plain}, ROUNDS, TIMES)
        p50, p99, floor = (
            statistics.median(quantile(round_, part) for round_ in times[name])
            for name, part in (("nexusfs", 0.5), ("nexusfs", 0.99), ("plain", 0.5))
        )
        limit = GOAL * floor + GOAL_NS
        yield Row(f"{WORKERS} workers, {what}: p50", duration(p50), f"plain {duration(floor)}",
                  floor / p50, f"≤ {duration(limit)}", p50 <= limit)  # fmt: skip
        yield Row(f"{WORKERS} workers, {what}: p99", duration(p99))


def fan_out_many(bench: Bench) -> Iterator[Row]:
    """100 and 1,000 workers with two turns and a tool each; the same by frameworks, in process."""
    taken = {}
    with roomy(bench.directory, "fan-out-many") as mnt:
        for count in (FEW, MANY):
            target = _target(mnt, _model(bench.directory, LOOKS), count)
            rounds = bench.client.run("fan_out", {"nexusfs": target}, 3, 1)["nexusfs"]
            taken[count] = statistics.median(times[0] for times in rounds)
            yield Row(f"{count:,} workers, two turns and a tool", duration(taken[count]))
    ratio = taken[FEW] * MANY / FEW / taken[MANY]
    yield Row(f"a worker of {MANY:,}", duration(taken[MANY] / MANY),
              f"of {FEW} {duration(taken[FEW] / FEW)}", ratio, "≥ 0.8", ratio >= 0.8)  # fmt: skip
    for package, script in FRAMEWORKS.items():
        seconds = framework(package, script, FEW)
        if seconds is None:
            yield Row(f"{FEW} agents by {package}", "not installed")
        else:
            theirs = seconds * 1e9
            yield Row(f"{FEW} workers", duration(taken[FEW]), f"{package} {duration(theirs)}",
                      theirs / taken[FEW])  # fmt: skip


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "fan-out": fan_out, "fan-out-many": fan_out_many,
}  # fmt: skip


def _target(mnt: Path, model: str, count: int) -> dict[str, Any]:
    request = {"message": "go", "worker": {"model": model}}
    top = str(mnt / "proc/1")
    return {"path": top, "request": json.dumps(request), "workers": count}


def _model(directory: Path, turns: list[dict[str, Any]]) -> str:
    script = directory / f"worker-{len(turns)}.json"
    script.write_text(json.dumps(turns))
    return f"offline/script:{script}"
