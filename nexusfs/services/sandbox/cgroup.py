"""Limits of a whole tree, kept by Linux: a cgroup for each call, where one can be made.

Version 2: a directory beside ours, or above, whose parent hands on the controllers and which we
may write to: root's, or what systemd delegates to a user. Version 1: below our own, for root.
Source: Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1.
"""

import itertools
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids")
PREFIX = "nexusfs-"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup of one call: a directory, or one for each controller."""

    paths: tuple[Path, ...]

    def take(self, pids: list[int]) -> None:
        """Moves processes in; what they start afterwards is inside. OSError."""
        for path in self.paths:
            for pid in pids:
                (path / "cgroup.procs").write_text(str(pid))

    def members(self) -> set[int]:
        """The processes that are in all of it. OSError."""
        found = [(path / "cgroup.procs").read_text().split() for path in self.paths]
        return {int(pid) for pid in set.intersection(*map(set, found))}

    def memory_kills(self) -> int:
        """How many processes Linux killed because memory was at the limit."""
        return self._count("memory.events", "oom_kill") or self._count(
            "memory.oom_control", "oom_kill"
        )

    def refused_forks(self) -> int:
        """How often a process or thread could not be made."""
        return self._count("pids.events", "max")

    def remove(self) -> None:
        """Removes it, after the last process is dead."""
        for path in self.paths:
            try:
                path.rmdir()
            except FileNotFoundError:  # it was not made
                continue
            except OSError as exc:
                log.info("a cgroup stays behind: %s", exc)

    def _count(self, name: str, key: str) -> int:
        for path in self.paths:
            with suppress(OSError):
                words = (path / name).read_text().split()
                if key in words:
                    return int(words[words.index(key) + 1])
        return 0


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where cgroups are made here: a parent, or one for each controller."""

    parents: tuple[Path, ...]
    _numbers: "itertools.count[int]"

    def make(self, memory_bytes: int, processes: int) -> Cgroup:
        """A new cgroup with limits; swap is none. OSError."""
        name = f"{PREFIX}{os.getpid()}-{next(self._numbers)}"
        made = Cgroup(tuple(parent / name for parent in self.parents))
        limits = {
            "memory.max": memory_bytes, "memory.limit_in_bytes": memory_bytes,
            "memory.swap.max": 0, "memory.memsw.limit_in_bytes": memory_bytes,
            "memory.oom.group": 1, "pids.max": processes,
        }  # fmt: skip
        held = 0
        try:
            for path in made.paths:
                path.mkdir()
                for key, value in limits.items():
                    if (path / key).exists():
                        (path / key).write_text(str(value))
                        held += key in ("memory.max", "memory.limit_in_bytes", "pids.max")
            if held < len(CONTROLLERS):
                raise OSError("the cgroup has no controllers")
        except OSError:
            made.remove()
            raise
        return made


def find_cgroups(root: Path = ROOT, own: str | None = None) -> Cgroups | None:
    """Where cgroups can be made, tried out; None for nowhere. Blocks for a millisecond.

    `own` is the content of /proc/self/cgroup.
    """
    with suppress(OSError):
        text = Path("/proc/self/cgroup").read_text() if own is None else own
        for parents in [*_second(root, text), *_first(root, text)]:
            made = Cgroups(parents, itertools.count())
            with suppress(OSError):
                made.make(1 << 30, 100).remove()
                _clean(parents)
                return made
    return None


def _second(root: Path, own: str) -> list[tuple[Path, ...]]:
    """Directories of version 2 that hand on the controllers, the nearest first."""
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), None)
    if path is None or not (root / "cgroup.controllers").exists():
        return []
    nearest = root / path.lstrip("/")
    return [
        (place,)
        for place in (nearest, *nearest.parents)
        if place.is_relative_to(root) and set(CONTROLLERS) <= _handed_on(place)
    ]


def _handed_on(place: Path) -> set[str]:
    try:
        return set((place / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def _first(root: Path, own: str) -> list[tuple[Path, ...]]:
    """Our own directories of version 1, one for each controller."""
    found = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = root / controller / path.lstrip("/")
    if not set(CONTROLLERS) <= found.keys():
        return []
    return [tuple(found[controller] for controller in CONTROLLERS)]


def _clean(parents: tuple[Path, ...]) -> None:
    """Removes the empty cgroups of daemons that were killed."""
    for parent in parents:
        for left in parent.glob(f"{PREFIX}*-*"):
            if not Path("/proc", left.name.split("-")[1]).exists():
                with suppress(OSError):
                    left.rmdir()
