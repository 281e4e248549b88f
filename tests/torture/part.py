"""What a part is given, how it fails, and how it runs programs."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuse.conftest import Mounts

SHOWN_LINES = 30


class PartFailedError(Exception):
    """A part failed; the message says what did not hold."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for.

    Attributes:
        directory: scratch, on a disk of the host; empty at the start of each part.
        seed: all that is random follows from it.
        pjdfstest: the built pjdfstest, which no package has.
        fsx: the program fsx of xfstests, which no package has.
    """

    directory: Path
    seed: int
    pjdfstest: Path | None = None
    fsx: Path | None = None


Part = Callable[[Plan], str]
"""Runs, and returns what to print; PartFailedError."""


def need(*programs: str, package: str) -> None:
    """Fails with the Debian package to install when a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise PartFailedError(f"{missing[0]} is not installed: apt-get install {package}")


def need_root() -> None:
    """Fails for anybody but root."""
    if os.geteuid() != 0:
        raise PartFailedError("it takes the place of several users: run it as root")


def run(*words: str | Path, cwd: Path, timeout_s: float = 600.0) -> str:
    """Runs a program and returns all it said; fails when it does."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False, timeout=timeout_s,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    if done.returncode:
        said = "\n".join(done.stdout.splitlines()[-SHOWN_LINES:])
        raise PartFailedError(f"{words[0]} ended with {done.returncode}:\n{said}")
    return done.stdout


def check_quiet(mounts: Mounts, *, killed: bool = False) -> None:
    """Fails when the daemon's log has an error, or a warning, which a daemon after a kill gives."""
    loud = re.compile(r" (ERROR|CRITICAL) |^Trace" + ("" if killed else "| WARNING "))
    log = (mounts.store() / "nexusfs.log").read_text(errors="replace")
    found = [line for line in log.splitlines() if loud.search(line)]
    if found:
        raise PartFailedError("the daemon's log is not quiet:\n" + "\n".join(found[:SHOWN_LINES]))
