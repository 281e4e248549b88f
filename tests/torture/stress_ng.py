"""stress-ng: its class `filesystem`, each stressor for a few seconds, checking what it reads."""

import re
import subprocess

from tests.fuse.conftest import Mounts
from tests.torture.part import SHOWN_LINES, PartFailedError, Plan, check_quiet, need, need_root

SECONDS = 3
TIMEOUT_S = 180.0
WORKERS = 2

NOT_OURS = {
    "bind-mount": "mounts /bin over itself, and never touches the directory under test",
    "binderfs": "mounts Android's binderfs",
    "fiemap": "the binding has no ioctl, so there is no map of extents to ask for",
    "fsize": "goes over the size limit by fallocate, which the binding has not (see test_posix.py)",
    "verity": "the binding has no ioctl, so fs-verity cannot be switched on",
}
"""Stressors that cannot apply, and why."""


def stress_ng(plan: Plan) -> str:
    """Every stressor of the class that applies."""
    need("stress-ng", package="stress-ng")
    need_root()
    listed = subprocess.run(
        ["stress-ng", "--class", "filesystem?"], capture_output=True, text=True, check=False
    )
    stressors = (listed.stdout + listed.stderr).partition("stressors:")[2].split()
    if not stressors:
        raise PartFailedError(f"stress-ng names no stressors: {listed.stderr}")
    mounts = Mounts(plan.directory)
    try:
        mnt = mounts.mount("a", "--allow-other")
        ran = [name for name in stressors if name not in NOT_OURS]
        faults = [fault for name in ran if (fault := _fault(name, str(mnt)))]
        check_quiet(mounts)
    finally:
        mounts.close()
    if faults:
        raise PartFailedError("\n".join(faults))
    reasons = "; ".join(f"not {name}: {why}" for name, why in NOT_OURS.items() if name in stressors)
    return f"{len(ran)} stressors; {reasons}"


def _fault(name: str, directory: str) -> str:
    """What a stressor complains about; empty when it does not."""
    words = ["--verify", "--timeout", str(SECONDS), "--temp-path", directory]
    done = subprocess.run(
        ["stress-ng", f"--{name}", str(WORKERS), *words],
        cwd=directory, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    said = (done.stdout + done.stderr).splitlines()
    bad = [line for line in said if re.search(r"\b(fail|error|skipping)\b", line)]
    if done.returncode or bad:
        return "\n".join([f"{name} ended with {done.returncode}:", *(bad or said)[:SHOWN_LINES]])
    return ""
