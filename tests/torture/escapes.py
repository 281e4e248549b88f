"""Bombs, floods and swapped directories against exec, while somebody reads a status all the time.

The bombs have no bound of their own: run this on a machine that you may lose, with nothing else
on it. What is asked is that each program ends, as the limit says it, and that the mount answers.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuse.conftest import Mounts
from tests.fuse.programs import LANDLOCK, marked, sandboxes, tried
from tests.torture.part import PartFailedError, Plan, check_quiet, need, need_root

ROUNDS = 3
SWAPS = 60
MARK = "7900"
ANSWER_LIMIT_S = 5.0
"""For one status read beside a bomb: far over what is seen, far under what a person gives up at."""
WAYS = {
    "bwrap": {},
    "bwrap without cgroups": {"NEXUSFS_SANDBOX__CGROUPS": "false"},
    "landlock": LANDLOCK,
}
LIMITS = {"NEXUSFS_SANDBOX__OUTPUT_MB": "4", "NEXUSFS_SANDBOX__MEMORY_MB": "256"}

FORKS = f"bomb() {{ bomb | bomb & }}; bomb; exec sleep {MARK}"
MEMORY = "import os\na = []\nfor _ in range(6): os.fork()\nwhile True: a.append(bytearray(1 << 20))"
FLOOD = f"for i in 1 2 3 4; do yes $i & yes $i >&2 & done; exec sleep {MARK}"
STUBBORN = (
    "import os, signal, subprocess\n"
    "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
    "for _ in range(20):\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        if os.fork() == 0:\n"
    f"            subprocess.Popen(['sleep', '{MARK}'], start_new_session=True)\n"
    "            while True: signal.pause()\n"
    "        os._exit(0)\n"
)


class Reader:
    """Reads the status of pid 1 over and over, and remembers the longest time."""

    def __init__(self, mnt: Path) -> None:
        self.longest_s = 0.0
        self.reads = 0
        self._path = mnt / "proc/1/status"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self._path.read_bytes()
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.reads += 1

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def escapes(plan: Plan) -> str:
    """Every bomb in every sandbox, in random order, and directories swapped meanwhile."""
    need("bwrap", package="bubblewrap")
    need_root()
    os.chmod(plan.directory, 0o755)
    mounts, rng = Mounts(plan.directory), random.Random(plan.seed)
    said = []
    try:
        for way, env in WAYS.items():
            mnt = mounts.mount(env={**LIMITS, **env})
            with Reader(mnt) as reader:
                for _ in range(ROUNDS):
                    for attack in rng.sample(ATTACKS, len(ATTACKS)):
                        attack(mnt)
                        _check_clean(mnt, attack.__name__)
                shown = _swaps(mnt, plan.directory / "outside", rng)
            if reader.longest_s > ANSWER_LIMIT_S:
                raise PartFailedError(f"{way}: a status read took {reader.longest_s:.1f} s")
            check_quiet(mounts)
            slowest_ms = reader.longest_s * 1000
            said.append(
                f"{way}: {shown} of {SWAPS} programs ran beside swaps, slowest of "
                f"{reader.reads:,} status reads {slowest_ms:.0f} ms"
            )
            mounts.umount(mnt)
    finally:
        mounts.close()
    return f"{ROUNDS * len(ATTACKS)} attacks each; " + "; ".join(said)


def forks(mnt: Path) -> None:
    """A bomb of forks without a bound."""
    _expect(tried(mnt, FORKS, timeout_s=2), "processes", "it took over", "at most")


def memory(mnt: Path) -> None:
    """64 processes that take all they can."""
    _expect(tried(mnt, MEMORY, "python", timeout_s=20), "memory", "MemoryError", "it took over")


def flood(mnt: Path) -> None:
    """Eight writers that never stop."""
    _expect(tried(mnt, FLOOD, timeout_s=20), "over 4 MiB")


def stubborn(mnt: Path) -> None:
    """Twenty trees that ignore every signal that can be ignored."""
    _expect(tried(mnt, STUBBORN, "python", timeout_s=2), "", "it took over")


ATTACKS: list[Callable[[Path], None]] = [forks, memory, flood, stubborn]


def _expect(answer: tuple[str, dict[str, object]], *sentences: str) -> None:
    failed, reply = answer
    text = f"{reply['output']}{reply['error'] or ''}"
    if failed not in ("", "EREMOTEIO", "ETIMEDOUT") or not any(one in text for one in sentences):
        raise PartFailedError(f"{failed}: {text[:300]}")


def _check_clean(mnt: Path, name: str) -> None:
    """Fails when a sandbox or one of its processes is left."""
    left = (sandboxes(mnt), marked(MARK))
    if left != (0, []):
        raise PartFailedError(f"after {name}: {left[0]} sandboxes and the processes {left[1]} left")


def _swaps(mnt: Path, outside: Path, rng: random.Random) -> int:
    """Runs programs while a directory is swapped for a link to the host; how many ran."""
    outside.mkdir(exist_ok=True)
    (outside / "file").write_text("the host's")
    swap, over = mnt / "swap", threading.Event()
    swap.mkdir(exist_ok=True)

    def juggle() -> None:
        while not over.is_set():
            os.rename(swap, mnt / "aside")
            os.symlink(rng.choice([f"/oldroot{outside}", str(outside)]), swap)
            time.sleep(rng.random() / 100)
            os.unlink(swap)
            os.rename(mnt / "aside", swap)
            time.sleep(rng.random() / 100)

    juggler = threading.Thread(target=juggle)
    juggler.start()
    ran = 0
    try:
        for _ in range(SWAPS):
            paths = f"/swap/file {swap}/file"
            failed, reply = tried(mnt, f"cat {paths}; for f in {paths}; do echo x > $f; done")
            ran += not failed
            if "the host's" in json.dumps(reply) or (outside / "file").read_text() != "the host's":
                raise PartFailedError(f"a swapped directory showed the host: {reply}")
    finally:
        over.set()
        juggler.join()
    return ran
