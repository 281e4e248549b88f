"""The process that does the timed loops: a JSON job per line on stdin, a JSON answer on stdout.

A job is {"op", "targets", "rounds", "count"}; its answer has, for each target, the nanoseconds
of every single operation of every round. Within a round the targets take turns, and which one
begins moves on from round to round.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

READ_BYTES = 65536


def read_status(target: Any, index: int) -> None:
    """open + read + close, as `cat` does it."""
    fd = os.open(target, os.O_RDONLY)
    os.read(fd, READ_BYTES)
    os.close(fd)


def stat(target: Any, index: int) -> None:
    os.stat(target)


_open: dict[str, int] = {}


def pread(target: Any, index: int) -> None:
    """pread of 4 KiB of a file that stays open."""
    fd = _open.get(target)
    if fd is None:
        fd = _open[target] = os.open(target, os.O_RDONLY)
    os.pread(fd, 4096, 0)


def spawn(target: Any, index: int) -> None:
    """Writes a spec and reads the pid on the same handle."""
    fd = os.open(target["path"], os.O_RDWR)
    os.write(fd, target["spec"].encode())
    int(os.read(fd, 64))
    os.close(fd)


def fan_out(target: Any, index: int) -> None:
    """Delegates to so many workers; then waits for each, and reads its result.

    A target with a `task_id` is no kernel: that task stands for all.
    """
    ids = []
    for _ in range(target["workers"]):
        fd = os.open(f"{target['path']}/delegate", os.O_RDWR)
        os.write(fd, target["request"].encode())
        reply = os.read(fd, READ_BYTES)
        os.close(fd)
        ids.append(target.get("task_id") or json.loads(reply)["task_id"])
    for task_id in ids:
        for name in ("wait", "result"):
            read_status(f"{target['path']}/tasks/{task_id}/{name}", index)


def request(target: Any, index: int) -> None:
    """Writes a request and reads its reply on the same handle."""
    fd = os.open(target["path"], os.O_RDWR)
    os.write(fd, target["text"].encode())
    os.lseek(fd, 0, os.SEEK_SET)
    os.read(fd, READ_BYTES)
    os.close(fd)


def create(target: Any, index: int) -> None:
    """create + write + close of a small file."""
    fd = os.open(f"{target}/f{index}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, SMALL)
    os.close(fd)


def read_small(target: Any, index: int) -> None:
    """open + read + close of one small file after the other."""
    read_status(f"{target}/f{index}", index)


def unlink(target: Any, index: int) -> None:
    os.unlink(f"{target}/f{index}")


SMALL = b"x" * 100
OPERATIONS: dict[str, Callable[[Any, int], None]] = {
    function.__name__: function
    for function in (
        read_status,
        stat,
        pread,
        spawn,
        fan_out,
        request,
        create,
        read_small,
        unlink,
    )
}


def timed(operation: Callable[[Any, int], None], target: Any, count: int) -> list[int]:
    """Nanoseconds of each of `count` operations."""
    times = []
    for index in range(count):
        began = perf_counter_ns()
        operation(target, index)
        times.append(perf_counter_ns() - began)
    return times


def run(job: dict[str, Any]) -> dict[str, list[list[int]]]:
    """{target: for each round the ns of each operation}."""
    names = list(job["targets"])
    found: dict[str, list[list[int]]] = {name: [] for name in names}
    for turn in range(job["rounds"]):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(timed(OPERATIONS[job["op"]], job["targets"][name], job["count"]))
    return found


def main() -> None:
    gc.disable()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
