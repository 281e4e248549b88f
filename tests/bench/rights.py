"""What rights cost: a check at depth 1 and 10, and a tool call through the mount."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

from nexusfs.contracts.rights import grant
from nexusfs.kernel.proc.caveats import Bounds, Caveat
from nexusfs.kernel.proc.rights import Rights
from tests.bench.rivals import Bench
from tests.bench.rows import ROUNDS, Row, against, duration, take

CHECKS = 100_000
DEEP = 10
GOAL_PER_S = 500_000


def checks(bench: Bench) -> Iterator[Row]:
    """A repeated check of a tool; and the first one after a caveat was added somewhere."""
    known, fresh = {}, {}
    for depth in (1, DEEP):
        rights = _chain(depth)
        known[depth] = _ns(partial(rights.may_use, "grep"), CHECKS)
        fresh[depth] = _ns(partial(_anew, rights), CHECKS // 100)
    for depth, ns in known.items():
        yield Row(
            f"rights check, repeated, depth {depth}", f"{1e9 / ns:,.0f}/s",
            goal=f"≥ {GOAL_PER_S:,}/s", met=1e9 / ns >= GOAL_PER_S,
        )  # fmt: skip
    yield Row(
        f"rights check after a cut, depth {DEEP}", duration(fresh[DEEP]),
        f"depth 1: {duration(fresh[1])}", fresh[1] / fresh[DEEP],
    )  # fmt: skip


def dispatch(bench: Bench) -> Iterator[Row]:
    """open, write of a list_dir call, read of its reply, close; plain serves the same calls."""
    text = json.dumps({"path": "/bin"})
    plain = bench.status["plain"].rpartition("/proc/")[0] + "/files/call"
    with open(plain, "w", encoding="utf-8") as made:
        made.write(text)
    targets = {
        name: {"path": path, "text": text}
        for name, path in (("nexusfs", str(bench.mnt / "dispatch/list_dir")), ("plain", plain))
    }
    times = take(bench, "request", targets, 200)
    yield against(times, "plain", "dispatch/list_dir: call and reply")


def _chain(depth: int) -> Rights:
    bounds = Bounds(("gr*", "list_dir"), ("exec",), (grant("/work"), grant("/lib", "r")))
    rights = Rights(2, (Caveat(bounds, bounds),))
    for number in range(depth - 1):
        below = Rights(3 + number, (Caveat(bounds, bounds),))
        below.hang_below(rights)
        rights = below
    return rights


def _anew(rights: Rights) -> None:
    rights.hang_below(rights.above)  # all that was known is forgotten, as after a cut
    rights.may_use("grep")


def _ns(call: Callable[[], object], count: int) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(count):
            call()
        taken.append((time.perf_counter_ns() - began) / count)
    return statistics.median(taken)


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {"rights": checks, "dispatch": dispatch}
