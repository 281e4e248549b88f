"""kill -9 of the daemon at random moments: what it acknowledged is there, the rest whole or not."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuse.conftest import NEXUSFS, Mounts
from tests.fuse.shell import daemon
from tests.model.ops import TOP
from tests.torture.kill_client import LOG
from tests.torture.load import difference, in_steps, tree
from tests.torture.part import PartFailedError, Plan, check_quiet

ROUNDS = 100
CLIENTS = 4
LONGEST_S = 0.4
"""From the start of the load to the kill: hundreds of operations at most, so that the kill hits
young files, journals that have just begun and those that are long."""
BOOT_ODDS = 4
"""One round in so many kills the daemon once more while it starts, and recovers."""


@dataclass
class Client:
    """A process that works; see `kill_client`."""

    name: str
    process: "subprocess.Popen[str]"
    answer: dict[str, Any] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """Starts a round."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Waits for the end of the round."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.answer = json.loads(line) if line else {"fault": "the client died"}
        if self.answer["fault"]:
            raise PartFailedError(f"{self.name}: {self.answer['fault']}")


def kills(plan: Plan) -> str:
    """100 kills under the load of four clients."""
    done, in_boot = run_kills(Mounts(plan.directory), plan.seed, ROUNDS)
    return f"{ROUNDS} kills and {in_boot} more during recovery, {done:,} acknowledged operations"


def run_kills(mounts: Mounts, seed: int, rounds: int) -> tuple[int, int]:
    """(acknowledged operations, kills during recovery), all found again; PartFailedError."""
    rng = random.Random(seed)
    mnt = mounts.mount()
    shadow = mounts.directory / "shadow"
    done = in_boot = 0
    try:
        with _clients(mnt, shadow, seed) as clients:
            for number in range(rounds):
                done += _one_kill(mnt, clients, rng)
                if rng.randrange(BOOT_ODDS) == 0:
                    _kill_in_boot(mounts, mnt, rng)
                    in_boot += 1
                mounts.mount()
                for client in clients:
                    _check_tree(mnt, shadow, client, number)
                _check_log(mnt, clients, number)
        check_quiet(mounts, killed=True)
    finally:
        mounts.close()
    return done, in_boot


@contextmanager
def _clients(mnt: Path, shadow: Path, seed: int) -> Iterator[list[Client]]:
    names = [f"c{number}" for number in range(CLIENTS)]
    for name in names:
        (mnt / name).mkdir()
        (shadow / name).mkdir(parents=True)
    clients = [
        Client(name, subprocess.Popen(
            [sys.executable, "-m", "tests.torture.kill_client", name, mnt, shadow, str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TOP,
        )) for name in names
    ]  # fmt: skip
    try:
        yield clients
    finally:
        for client in clients:
            client.process.kill()
            client.process.communicate()


def _one_kill(mnt: Path, clients: list[Client], rng: random.Random) -> int:
    """Lets the clients work, kills the daemon; operations that were acknowledged."""
    victim = daemon(mnt)
    for client in clients:
        client.begin()
    time.sleep(rng.uniform(0, LONGEST_S))
    os.kill(victim, signal.SIGKILL)
    for client in clients:
        client.end()
    return sum(client.answer["done"] for client in clients)


def _kill_in_boot(mounts: Mounts, mnt: Path, rng: random.Random) -> None:
    """Starts a daemon and kills it before it may have recovered."""
    words = [NEXUSFS, "mount", "-f", str(mnt), "--store", str(mounts.store())]
    with open(mounts.directory / "boot.log", "ab") as log:
        process = subprocess.Popen(words, env=mounts.environment(), stdout=log, stderr=log)
    time.sleep(rng.uniform(0, 0.5))
    process.kill()
    process.wait()


def _check_tree(mnt: Path, shadow: Path, client: Client, number: int) -> None:
    """The client's directory is as its shadow, with or without the pending operation."""
    found = tree(mnt / client.name)
    fault = difference(found, tree(shadow / client.name))
    pending = client.answer["pending"]
    if not fault:
        return
    for _ in in_steps(pending, shadow / client.name) if pending else ():
        if not difference(found, tree(shadow / client.name)):
            return
    raise PartFailedError(f"kill {number}, {client.name}: {fault}; under way was {pending}")


def _check_log(mnt: Path, clients: list[Client], number: int) -> None:
    """Every acknowledged line of the shared log is there, once, and each client's are in order.

    One line of each client and kill may be there or not, or be cut (see `load.in_steps`).
    """
    lines = (mnt / LOG).read_text().split("\n") if (mnt / LOG).exists() else []
    whole = [match for line in lines if (match := re.fullmatch(r"(c\d) (\d+) \.*;", line))]
    torn = [line for line in lines if line and not re.fullmatch(r"(c\d) (\d+) \.*;", line)]
    if len(torn) > len(clients) * (number + 1):
        raise PartFailedError(f"kill {number}: {len(torn)} torn lines, as {torn[-1]!r}")
    for client in clients:
        client.acknowledged |= set(client.answer["records"])
        found = [int(match[2]) for match in whole if match[1] == client.name]
        lost = client.acknowledged - set(found)
        more = len(found) - len(client.acknowledged)
        if lost or found != sorted(set(found)) or more > number + 1:
            raise PartFailedError(f"kill {number}: {client.name} lacks {lost}, has {more} more")
