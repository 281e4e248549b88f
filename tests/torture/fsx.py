"""fsx: random reads, writes, truncations and mappings of one file against a copy in memory."""

from tests.fuse.conftest import Mounts
from tests.torture.part import PartFailedError, Plan, check_quiet, run

OPERATIONS = 100_000
NO_FALLOCATE = ["-F", "-H", "-z", "-C", "-I", "-u"]
"""The binding has no fallocate, so no preallocation, holes, zeroed, removed, inserted or unshared
ranges. copy_file_range is copied by Linux itself, and stays in."""
WAYS = {
    "mapped": [],
    "plain": ["-R", "-W"],  # reads and writes by system calls alone
    "reopened": ["-c", "50"],  # closed and opened again every 50 operations
    "uncached": ["-f"],  # Linux's pages are dropped after each operation
    "direct": ["-Z", "-R", "-W", "-r", "4096", "-w", "4096", "-t", "4096"],
}
"""`mapped` does it all: system calls and shared mappings, in turn."""


def fsx(plan: Plan) -> str:
    """100,000 operations in each of several ways."""
    if plan.fsx is None or not plan.fsx.is_file():
        raise PartFailedError("no fsx: build ltp/fsx of xfstests, and say FSX=PATH")
    mounts = Mounts(plan.directory)
    try:
        mnt = mounts.mount()
        for way, options in WAYS.items():
            words = [*NO_FALLOCATE, *options, "-q", "-N", str(OPERATIONS), "-S", str(plan.seed + 1)]
            run(plan.fsx, *words, "-P", plan.directory, mnt / way, cwd=mnt, timeout_s=3600)
        check_quiet(mounts)
    finally:
        mounts.close()
    return f"{OPERATIONS:,} operations each: {', '.join(WAYS)}"
