"""pjdfstest: what POSIX, and the systems it was written on, ask of names and attributes."""

import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuse.conftest import Mounts
from tests.torture.part import PartFailedError, Plan, check_quiet, need, need_root

AT_ONCE = 4
"""Files that run side by side: most of them sleep for a tick of the clock most of the time."""
TIMEOUT_S = 300.0

_CASE = re.compile(r"(not )?ok (\d+)(.*)")


@dataclass(frozen=True)
class Outcome:
    """One file: {number of the case: (passed, what was said of it)}, and whether it applies."""

    name: str
    cases: dict[int, tuple[bool, str]]
    applies: bool
    fault: str

    @property
    def failed(self) -> dict[tuple[str, int], str]:
        """What was said of each case that failed."""
        return {(self.name, n): said for n, (passed, said) in self.cases.items() if not passed}


def pjdfstest(plan: Plan) -> str:
    """Every group, as root on a mount with allow_other."""
    need("prove", "openssl", package="perl openssl")
    need_root()
    if plan.pjdfstest is None or not (plan.pjdfstest / "pjdfstest").is_file():
        raise PartFailedError(
            "no built pjdfstest: get github.com/pjd/pjdfstest, build it, and say PJDFSTEST=DIR"
        )
    mounts = Mounts(plan.directory)
    tests = plan.pjdfstest / "tests"
    try:
        outcomes = _run_all(sorted(tests.glob("*/*.t")), mounts.mount("a", "--allow-other"))
    finally:
        mounts.close()
    check_quiet(mounts)
    failed = {outcome.name for outcome in outcomes if outcome.failed}
    (plan.directory / "host").mkdir()
    on_host = _run_all([tests / name for name in sorted(failed)], plan.directory / "host")
    return _judge(
        outcomes, {key: why for outcome in on_host for key, why in outcome.failed.items()}
    )


def _run_all(files: list[Path], top: Path) -> list[Outcome]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda file: _run(file, top), files))


def _run(file: Path, top: Path) -> Outcome:
    name = f"{file.parent.name}/{file.name}"
    where = top / name.replace("/", "-")
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


def _judge(outcomes: list[Outcome], on_host: dict[tuple[str, int], str]) -> str:
    """What to print; PartFailedError.

    What pjdfstest itself expects to fail on Linux, and gives the reason for, may fail if it does on
    the host's disk too.
    """
    ours = [outcome for outcome in outcomes if outcome.applies]
    failed = {key: said for outcome in ours for key, said in outcome.failed.items()}
    faults = [f"{outcome.name} {outcome.fault}" for outcome in ours if outcome.fault]
    excused = {key for key in failed.keys() & on_host.keys() if "# TODO" in failed[key]}
    faults += [f"{name}: {failed[name, n]}" for name, n in sorted(failed.keys() - excused)]
    total = sum(len(outcome.cases) for outcome in ours)
    counts = f"passed {total - len(failed)} of {total}"
    if faults or not total:
        raise PartFailedError("\n".join([counts, *faults]))
    reasons = Counter(failed[key].partition("# TODO ")[2] for key in excused)
    said = [f"{count} fail on the host too: {why}" for why, count in reasons.items()]
    others = len(outcomes) - len(ours)
    return "; ".join([f"{counts}, {others} files are for other systems", *said])
