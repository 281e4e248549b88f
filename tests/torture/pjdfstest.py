"""pjdfstest: what POSIX, and the systems it was written on, ask of names and attributes."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuse.conftest import Mounts
from tests.torture.part import PartFailedError, Plan, check_quiet, need, need_root

AT_ONCE = 4
"""Files that run side by side: most of them sleep for a tick of the clock most of the time."""
TIMEOUT_S = 300.0

IMPOSSIBLE: dict[tuple[str, int], str] = {
    ("unlink/08.t", 2): "Linux answers unlink of a directory with EISDIR, POSIX with EPERM",
    (
        "chown/00.t",
        1139,
    ): "Linux lets chown(-1, -1) of a symlink set ctime, which POSIX leaves open",
    ("chown/00.t", 1144): "Linux lets lchown(-1, -1) of a symlink set ctime, as above",
}
"""What Linux itself makes impossible, on ext4 too: (file, number of the case): why."""

_CASE = re.compile(r"(not )?ok (\d+)(.*)")


@dataclass(frozen=True)
class Outcome:
    """One file: {number of the case: (passed, what was said of it)}, and whether it applies."""

    name: str
    cases: dict[int, tuple[bool, str]]
    applies: bool
    fault: str


def pjdfstest(plan: Plan) -> str:
    """Every group, as root on a mount with allow_other."""
    need("prove", "openssl", package="perl openssl")
    need_root()
    if plan.pjdfstest is None or not (plan.pjdfstest / "pjdfstest").is_file():
        raise PartFailedError(
            "no built pjdfstest: get github.com/pjd/pjdfstest, build it, and say PJDFSTEST=DIR"
        )
    mounts = Mounts(plan.directory)
    try:
        outcomes = _run_all(plan.pjdfstest / "tests", mounts.mount("a", "--allow-other"))
    finally:
        mounts.close()
    check_quiet(mounts)
    return _judge(outcomes)


def _run_all(tests: Path, mnt: Path) -> list[Outcome]:
    files = sorted(tests.glob("*/*.t"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda file: _run(file, mnt), files))


def _run(file: Path, mnt: Path) -> Outcome:
    name = f"{file.parent.name}/{file.name}"
    where = mnt / name.replace("/", "-")
    where.mkdir()
    done = subprocess.run(
        ["sh", file], cwd=where, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    cases = {
        int(found[2]): (not found[1], line)
        for line in done.stdout.splitlines()
        if (found := _CASE.fullmatch(line))
    }
    plan = re.search(r"^1\.\.(\d+)", done.stdout, re.M)
    fault = "" if plan and len(cases) == int(plan[1]) else f"ended early: {done.stderr.strip()}"
    # A file that is for another system says that its only case passed.
    applies = done.stdout.split("\n")[:2] != ["1..1", "ok 1"]
    return Outcome(name, cases, applies, fault)


def _judge(outcomes: list[Outcome]) -> str:
    ours = [outcome for outcome in outcomes if outcome.applies]
    failed = {
        (o.name, n): said for o in ours for n, (passed, said) in o.cases.items() if not passed
    }
    faults = [f"{o.name} {o.fault}" for o in ours if o.fault]
    faults += [
        f"{name}: {said}" for (name, n), said in failed.items() if (name, n) not in IMPOSSIBLE
    ]
    faults += [f"{name} case {n} passes now" for name, n in IMPOSSIBLE.keys() - failed.keys()]
    total = sum(len(outcome.cases) for outcome in ours)
    counts = f"passed {total - len(failed)} of {total}"
    if faults or not total:
        raise PartFailedError("\n".join([counts, *faults]))
    reasons = [f"{name} case {n}: {IMPOSSIBLE[name, n]}" for name, n in sorted(failed)]
    others = len(outcomes) - len(ours)
    return "; ".join([f"{counts}, {others} files are for other systems", *reasons])
