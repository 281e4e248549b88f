"""The claims about agents: idle ones, many at once, kills, steps, and model calls in flight."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.rivals import AGENT, HERE, NEXUSFS, WAIT_S, Bench, nexusfs, rss_mb, spawn
from tests.bench.rows import Row, duration, quantile

IDLE = 10_000
FEW = 10
IDLE_ROUNDS, IDLE_READS = 60, 300
AT_ONCE = 1000
IN_FLIGHT = 200
LOAD_ROUNDS, LOAD_READS = 41, 400
FRAMEWORKS = {"openai-agents": "openai_agents.py", "agno": "agno.py"}
VENV = HERE.parents[1] / ".bench-venv"
"""Where the frameworks are installed when they are first asked for; never the project's own."""
ROOT = HERE.parents[1]


@contextmanager
def roomy(directory: Path, name: str) -> Iterator[Path]:
    """A mount whose users may have hundreds of model calls and keep thousands of agents."""
    config = directory / f"{name}.toml"
    config.write_text("model_slots = 1000\nslots_per_owner = 1000\nretain_count = 100000\n")
    mnt = directory / f"mnt-{name}"
    mnt.mkdir()
    nexusfs(
        "mount", str(mnt), "--store", str(directory / f"store-{name}"), "--config", str(config),
        directory=directory,
    )  # fmt: skip
    try:
        yield mnt
    finally:
        nexusfs("umount", "-l", str(mnt), directory=directory)


def idle(bench: Bench) -> Iterator[Row]:
    """10,000 chat agents that wait: memory of each, `ls proc`, a status read beside them.

    The read is of the same daemon before and after, each in relation to the plain program's, for
    the machine's pace changes, and two daemons may differ by a third all their lives.
    """
    with roomy(bench.directory, "idle") as mnt:
        pid = json.loads((mnt / "sys/mounts").read_text().splitlines()[0])["pid"]
        for _ in range(FEW):
            last = spawn(mnt, AGENT)
        targets = {"nexusfs": str(mnt / f"proc/{last}/status"), "plain": bench.status["plain"]}
        few, few_ratio = _status(bench, targets)
        before = rss_mb(pid)
        spec = json.dumps(AGENT)
        target_spawn = {"spawn": {"path": str(mnt / "proc/spawn"), "spec": spec}}
        bench.client.run("spawn", target_spawn, 1, IDLE)
        kib = (rss_mb(pid) - before) * 1e6 / 1024 / IDLE
        yield Row(f"{IDLE:,} idle agents: each", f"{kib:.1f} KiB", goal="< 8 KiB", met=kib < 8)
        listed = min(_timed(lambda: os.listdir(mnt / "proc")) for _ in range(5))
        yield Row(f"{IDLE:,} idle agents: ls proc", duration(listed), goal="< 100 ms",
                  met=listed < 1e8)  # fmt: skip
        many, many_ratio = _status(bench, targets)
        ratio = many_ratio / few_ratio
        yield Row(f"status: p50 beside {IDLE:,} agents", duration(many),
                  f"beside {FEW} {duration(few)}", ratio, "≥ 0.9", ratio >= 0.9)  # fmt: skip


def _status(bench: Bench, targets: dict[str, str]) -> tuple[float, float]:
    """p50 of a status read in ns, and how many times as fast as the plain program's it is."""
    bench.client.run("read_status", targets, 1, IDLE_READS)
    found = bench.client.run("read_status", targets, IDLE_ROUNDS, IDLE_READS)
    p50s = {name: [quantile(times, 0.5) for times in rounds] for name, rounds in found.items()}
    ratios = [p / n for p, n in zip(p50s["plain"], p50s["nexusfs"], strict=True)]
    return statistics.median(p50s["nexusfs"]), statistics.median(ratios)


def together(bench: Bench) -> Iterator[Row]:
    """1,000 agents at once, two turns and a tool each, against frameworks that do the same."""
    found = _json_of("tests.bench.thousand", str(bench.directory / "store-thousand"), str(AT_ONCE))
    best = found["best"]
    yield Row(f"{AT_ONCE:,} agents, 2 turns, 1 tool", duration(best * 1e9),
              f"median {found['median']:.2f} s", goal="< 1 s", met=best < 1)  # fmt: skip
    for package, script in FRAMEWORKS.items():
        seconds = framework(package, script, AT_ONCE)
        if seconds is None:
            yield Row(f"the same by {package}", "not installed")
        else:
            yield Row("the same", duration(best * 1e9), f"{package} {duration(seconds * 1e9)}",
                      seconds / best)  # fmt: skip


def killing(bench: Bench) -> Iterator[Row]:
    """kill of a tree: from the write to ctl until it returns, when all of it has ended."""
    with roomy(bench.directory, "kill") as mnt:
        for size, goal_s in ((10, 0.1), (1000, 1.0)):
            taken = [_kill_tree(mnt, size) for _ in range(3)]
            ns = statistics.median(taken)
            yield Row(f"kill of a tree of {size:,}", duration(ns), goal=f"< {goal_s * 1e3:g} ms",
                      met=ns < goal_s * 1e9)  # fmt: skip


def steps(bench: Bench) -> Iterator[Row]:
    """What a turn costs at turn 10 and at turn 1,000, with a model and a tool that are instant."""
    found = _json_of("tests.bench.steps", str(bench.directory / "steps"))
    names = {"journal": "journal of a step", "turn": "a step in all", "status": "status and usage"}
    for name, what in names.items():
        early, late = found[name]["10"] * 1e3, found[name]["1000"] * 1e3
        yield Row(f"{what}: turn 1,000", duration(late), f"turn 10 {duration(early)}",
                  early / late, "≥ 0.9", early / late >= 0.9)  # fmt: skip


def flight(bench: Bench) -> Iterator[Row]:
    """p99 of a status read while 200 model calls stream, and of plain pyfuse3 beside the same."""
    with roomy(bench.directory, "flight") as mnt, _endpoint(bench.directory) as base:
        settings = {"api_base": base}
        spec = {"model": "openai/any", "model_settings": settings, "task": "go",
                "limits": {"unknown_price": "allow"}}  # fmt: skip
        pids = [spawn(mnt, spec) for _ in range(IN_FLIGHT)]
        _until(lambda: all(_streams(mnt, pid) for pid in pids))
        targets = {"nexusfs": str(mnt / f"proc/{pids[0]}/wchan"), "plain": bench.status["plain"]}
        bench.client.run("read_status", targets, 1, LOAD_READS)
        found = bench.client.run("read_status", targets, LOAD_ROUNDS, LOAD_READS)
        assert all(_streams(mnt, pid) for pid in pids), "the streams ended before the measurement"
        for pid in pids:
            (mnt / f"proc/{pid}/ctl").write_text("kill\n")
    ours, theirs = ([quantile(t, 0.99) for t in found[name]] for name in ("nexusfs", "plain"))
    ratio = statistics.median(t / o for o, t in zip(ours, theirs, strict=True))
    yield Row(f"status: p99, {IN_FLIGHT} model calls", duration(statistics.median(ours)),
              f"plain {duration(statistics.median(theirs))}", ratio, "≥ 1", ratio >= 1)  # fmt: skip


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "idle": idle, "together": together, "killing": killing, "steps": steps, "flight": flight,
}  # fmt: skip


def _timed(call: Callable[[], Any]) -> int:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began


def _json_of(module: str, *arguments: str) -> dict[str, Any]:
    """What a module prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{module}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def framework(package: str, script: str, count: int) -> float | None:
    """Seconds for the same agents by a framework; None when it cannot be installed here."""
    if not (VENV / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = str(VENV / "bin/pip")
    for command in ([pip, "show", "-q", package], [pip, "install", "-q", package]):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            break
    else:
        return None
    done = subprocess.run(
        [VENV / "bin/python", str(HERE / "frameworks" / script), str(count)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def _kill_tree(mnt: Path, size: int) -> int:
    """Builds a tree of chat agents, 31 children at most below each, kills it; nanoseconds."""
    members = [spawn(mnt, AGENT)]
    above = 0
    while len(members) < size:
        for _ in range(min(31, size - len(members))):
            members.append(_child(mnt, members[above]))
        above += 1
    _until(lambda: (mnt / f"proc/{members[-1]}/wchan").read_text() == "message\n")
    fd = os.open(mnt / f"proc/{members[0]}/ctl", os.O_WRONLY)
    try:
        taken = _timed(lambda: os.write(fd, b"kill\n"))
    finally:
        os.close(fd)
    assert (mnt / f"proc/{members[-1]}/exit_code").read_text() == "-9\n"
    return taken


def _child(mnt: Path, parent: int) -> int:
    """Spawns an agent as a child of another: by that one's own tool."""
    arguments = {"path": "/proc/spawn", "content": json.dumps(AGENT)}
    fd = os.open(mnt / f"proc/{parent}/dispatch/write_file", os.O_RDWR)
    try:
        os.write(fd, json.dumps(arguments).encode())
    finally:
        os.close(fd)
    children = (mnt / f"proc/{parent}/children").read_text().split()
    return int(children[-1])


@contextmanager
def _endpoint(directory: Path) -> Iterator[str]:
    """A provider whose answers stream for minutes, a word in 50 ms.

    It gives way to all else: a real one would not be on this machine.
    """
    script = directory / "stream.json"
    script.write_text(json.dumps([{"content": "word " * 20_000, "token_delay_s": 0.05}]))
    command = ["nice", "-n", "19", NEXUSFS, "mock-llm", "--script", str(script), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def _streams(mnt: Path, pid: int) -> bool:
    """True when the agent's model speaks: its pipe has text, and the call is not over."""
    fd = os.open(mnt / f"proc/{pid}/stdout_pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return bool(os.read(fd, 100)) and (mnt / f"proc/{pid}/wchan").read_text() == "model\n"
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S * 6
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("it does not come to pass")
        time.sleep(0.05)
