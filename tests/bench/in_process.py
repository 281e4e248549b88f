"""Rates in process, through `nexusfs.connect` and its system calls, and of agentfs-sdk beside.

`python -m tests.bench.in_process DIRECTORY ROUNDS` prints a line of JSON for each round: operations
a second by name. agentfs-sdk is installed into a virtual environment of the bench's own, and does
the same work in `agentfs_client`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import trio

import nexusfs
from nexusfs.boot.collector import calm_the_collector
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.node import Stat
from nexusfs.kernel import permission
from nexusfs.kernel.bound import BoundSyscalls
from tests.bench.rivals import HERE, Bench
from tests.bench.rows import Row

FULL_FILES, FULL_DIRECTORIES = 100_000, 100
COUNT = 2000
TASKS = 8
ROUNDS = 5
GOALS = {
    "write_file, new, 1 KiB": 10_000,
    "sys_write, 1 KiB": 10_000,
    "sys_write+sys_fsync, 8 tasks": 1000,
    "sys_read, 1 KiB, hot": 50_000,
    "rights check, repeated": 500_000,
}
"""Operations a second. Source: DESIGN.md, section 14."""
AGENTFS = {
    "write_file, new, 1 KiB": "write",
    "read_file, 1 KiB, hot": "read",
    "sys_stat by path": "stat",
    "sys_unlink": "unlink",
}
"""What agentfs-sdk does too, by our name."""
SMALL = b"x" * 1024
STRANGER = Credentials(1000, 1000)


def in_process(bench: Bench) -> Iterator[Row]:
    """Every rate, empty store and full one, against its goal and against agentfs-sdk."""
    yield from _rates(bench, "store-empty", "")
    fill(bench.directory / "store-in-process")
    yield from _rates(bench, "store-in-process", f", {FULL_FILES:,} files")


def _rates(bench: Bench, store: str, where: str) -> Iterator[Row]:
    rivals = {
        "nexusfs": [sys.executable, "-m", "tests.bench.in_process", str(bench.directory / store)],
        "agentfs-sdk": [_agentfs(bench), str(HERE / "agentfs_client.py"), str(bench.directory)],
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, words in rivals.items():
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for what in found["nexusfs"][0]:
        ours = [each[what] for each in found["nexusfs"]]
        rate = statistics.median(ours)
        goal = GOALS.get(what)
        rival = AGENTFS.get(what)
        theirs = [each[rival] for each in found["agentfs-sdk"]] if rival else []
        yield Row(
            what + where, f"{rate:,.0f}/s",
            f"agentfs-sdk {statistics.median(theirs):,.0f}/s" if theirs else "",
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) if theirs else None,
            f"≥ {goal:,}/s" if goal else "≥ 1" if theirs else "",
            rate >= goal if goal else rate >= statistics.median(theirs) if theirs else None,
        )  # fmt: skip


def _agentfs(bench: Bench) -> str:
    """The Python of a virtual environment with agentfs-sdk."""
    home = bench.directory / "agentfs"
    if not home.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin/pip"), "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "agentfs-sdk"], check=True, stderr=subprocess.DEVNULL)
    return str(home / "bin/python")


def fill(store: Path) -> None:
    """Makes 100,000 files of 100 B in a store, in 100 directories of /full."""
    if store.exists():
        return

    async def work() -> None:
        async with nexusfs.connect(store) as nexus:
            await nexus.sys_mkdir("/full")
            for directory in range(FULL_DIRECTORIES):
                await nexus.sys_mkdir(f"/full/{directory}")
                for number in range(FULL_FILES // FULL_DIRECTORIES):
                    await nexus.write_file(f"/full/{directory}/f{number}", b"x" * 100)
                await trio.lowlevel.checkpoint()

    trio.run(work)


async def _measure(store: Path) -> dict[str, float]:
    async with nexusfs.connect(store) as nexus:
        home = f"/in-process-{time.time_ns()}"
        await nexus.sys_mkdir(home)
        rates: dict[str, float] = {}

        async def rate(what: str, call: Callable[[int], Awaitable[object]]) -> None:
            began = time.perf_counter()
            for number in range(COUNT):
                await call(number)
            rates[what] = COUNT / (time.perf_counter() - began)

        await rate(
            "write_file, new, 1 KiB", lambda number: nexus.write_file(f"{home}/f{number}", SMALL)
        )
        await rate("read_file, 1 KiB, hot", lambda number: nexus.read_file(f"{home}/f{number}"))
        await rate("sys_stat by path", lambda number: nexus.sys_stat(f"{home}/f{number}"))
        opened = await nexus.sys_open(f"{home}/f0", os.O_RDWR)
        await rate(
            "sys_write, 1 KiB", lambda number: nexus.sys_write(opened.fd, SMALL, number % 64 << 10)
        )
        await rate("sys_read, 1 KiB, hot", lambda number: nexus.sys_read(opened.fd, 1024, 0))
        rates["rights check, repeated"] = _checks(await nexus.sys_stat(f"{home}/f0"))
        rates["sys_write+sys_fsync, 8 tasks"] = await _synced(nexus, home)
        await rate("sys_unlink", lambda number: nexus.sys_unlink(f"{home}/f{number}"))
        return rates


def _checks(st: Stat) -> float:
    began = time.perf_counter()
    for _ in range(COUNT * 50):
        permission.check(STRANGER, st, os.R_OK)
    return COUNT * 50 / (time.perf_counter() - began)


async def _synced(nexus: BoundSyscalls, home: str) -> float:
    async def work(number: int) -> None:
        opened = await nexus.sys_open(f"{home}/f{number}", os.O_WRONLY)
        for _ in range(COUNT // TASKS):
            await nexus.sys_write(opened.fd, SMALL, 0)
            await nexus.sys_fsync(opened.fd)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(work, number)
    return COUNT / (time.perf_counter() - began)


def main() -> None:
    calm_the_collector()
    with tempfile.TemporaryDirectory() as nowhere:
        os.environ["NEXUSFS_CONFIG"] = f"{nowhere}/none.toml"
        print(json.dumps(trio.run(_measure, Path(sys.argv[1]))))


MEASURES = {"in-process": in_process}

if __name__ == "__main__":
    main()
