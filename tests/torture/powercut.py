"""Power cuts: whatever was not synced may be lost, and nothing else, and nothing is corrupt."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import nexusfs
from nexusfs.contracts.errors import KernelError, NotFoundError
from tests.model.ops import TOP
from tests.torture.cut_client import TASKS, digest
from tests.torture.part import PartFailedError, Plan

LOADS, CUTS = 10, 30
"""Young stores and some that have grown: so many cuts of each."""
SETTLE_S = 1.0
"""From the last cut to the end of the load: steps that were under way at the cut are told of."""
LONGEST_S = 0.25
"""Between two cuts of one load; they begin, quickly, while the store is being made."""


@dataclass(frozen=True)
class Cut:
    """What one cut left."""

    image: Path
    moment_ns: int


def powercut(plan: Plan) -> str:
    """300 cuts that lose any pages and names that were not synced."""
    return _loads(plan, garble=False)


def garble(plan: Plan) -> str:
    """300 cuts that also leave garbage where something was being written."""
    return _loads(plan, garble=True)


def _loads(plan: Plan, *, garble: bool) -> str:
    done = lost = 0
    for number in range(LOADS):
        directory = plan.directory / str(number)
        directory.mkdir()
        result = run_cuts(directory, plan.seed + number, CUTS, garble=garble)
        done, lost = done + result[0], lost + result[1]
        shutil.rmtree(directory)
    return f"{LOADS * CUTS} cuts in {done:,} steps; {lost:,} steps lost, of which none was synced"


def run_cuts(directory: Path, seed: int, count: int, *, garble: bool) -> tuple[int, int]:
    """Makes cuts during a load, and opens what each left: (steps done, steps lost)."""
    history, cuts = _make_cuts(directory, seed, count, garble=garble)
    lost = 0
    for number, cut in enumerate(cuts):
        found, fault = trio.run(_open, cut)
        where = f"cut {number} of seed {seed}"
        if fault:
            raise PartFailedError(f"{where}: {fault}")
        for task, steps in enumerate(history):
            lost += _lost(cut, steps, found[task], f"{where}: /t{task}")
        shutil.rmtree(cut.image)
    return sum(len(steps) for steps in history), lost


def _make_cuts(
    directory: Path, seed: int, count: int, *, garble: bool
) -> tuple[list[list[dict[str, Any]]], list[Cut]]:
    """(the steps of each task, the cuts)."""
    rng = random.Random(seed)
    cuts = []
    with _disk(directory / "disk") as disk, open(directory / "steps", "w+") as steps:
        load = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.cut_client", directory / "disk/store", str(seed)],
            stdout=steps, cwd=TOP, env={**os.environ, "XDG_CONFIG_HOME": str(directory)},
        )  # fmt: skip
        try:
            _wait_for(directory / "disk/store", load)
            for number in range(count):
                time.sleep(rng.uniform(0, min(LONGEST_S, number * LONGEST_S / 20)))
                image = directory / f"image-{number}"
                asked = {"directory": str(image), "seed": rng.random(), "garble": garble}
                assert disk.stdin and disk.stdout
                disk.stdin.write(json.dumps(asked) + "\n")
                disk.stdin.flush()
                cuts.append(Cut(image, int(disk.stdout.readline())))
                if load.poll() is not None:
                    raise PartFailedError("the load ended")
            time.sleep(SETTLE_S)
        finally:
            load.kill()
            load.wait()
        steps.seek(0)
        lines = steps.read().splitlines()
    history: list[list[dict[str, Any]]] = [[] for _ in range(TASKS)]
    for line in lines[:-1]:  # the last may be half
        step = json.loads(line)
        history[step["task"]].append(step)
    return history, cuts


def _wait_for(store: Path, load: "subprocess.Popen[bytes]") -> None:
    """Returns as soon as the load makes its store."""
    while not store.exists():
        if load.poll() is not None:
            raise PartFailedError("the load ended")
        time.sleep(0.001)


@contextmanager
def _disk(mnt: Path) -> Iterator["subprocess.Popen[str]"]:
    mnt.mkdir()
    disk = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.lossy", mnt],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP,
    )  # fmt: skip
    assert disk.stdin and disk.stdout
    try:
        if disk.stdout.readline() != "ready\n":
            raise PartFailedError("the lossy disk does not mount")
        yield disk
    finally:
        disk.communicate()  # it unmounts, and ends with its input


async def _open(cut: Cut) -> tuple[dict[int, dict[str, str]], str]:
    """Opens what a cut left: (what is in each task's directory, what is wrong with it)."""
    found: dict[int, dict[str, str]] = {}
    fault = ""
    try:
        async with nexusfs.connect(cut.image / "store") as nexus:
            for task in range(TASKS):
                found[task] = await _found(nexus, f"/t{task}")
            await nexus.write_file("/after-the-cut", b"x" * 10_000)
            if await nexus.read_file("/after-the-cut") != b"x" * 10_000:
                fault = "what was written after the cut is not there"
    except* Exception as group:
        fault = "".join(traceback.format_exception(group))
    return found, fault


async def _found(nexus: Any, top: str) -> dict[str, str]:
    """What is in a task's directory."""
    try:
        entries = await nexus.sys_readdir(top)
    except NotFoundError:
        return {}
    found = {}
    for name in (entry.name.decode() for entry in entries):
        try:
            found[name] = digest(await nexus.read_file(f"{top}/{name}"))
        except KernelError as exc:
            found[name] = f"{errno.errorcode[exc.errno]}: {exc}"
    return found


def _lost(cut: Cut, steps: list[dict[str, Any]], found: dict[str, str], where: str) -> int:
    """Steps that are lost; PartFailedError unless the directory is as after one of the steps.

    That step is not before the last that a finished sync covered, and not one of the future.
    """
    begun = [step for step in steps if step["began"] < cut.moment_ns]
    synced = (n for n, s in enumerate(begun, 1) if s["synced"] and s["acked"] < cut.moment_ns)
    safe = max(synced, default=0)
    state: dict[str, str] = {}
    wanted = []
    for number in range(len(begun) + 1):
        for name, content in begun[number - 1]["change"].items() if number else ():
            state.pop(name, None)
            if content is not None:
                state[name] = content
        if number >= safe:
            wanted.append(dict(state))
    for number, one in enumerate(reversed(wanted)):
        if one == found:
            return number
    raise PartFailedError(f"{where} has {found}, synced was {wanted[0]}, last {wanted[-1]}")
