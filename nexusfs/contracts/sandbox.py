"""Programs that tools run in a sandbox: what to run, what came of it, and the seam between."""

from dataclasses import dataclass
from typing import Literal, Protocol

SandboxKind = Literal["bwrap", "landlock", "none", "off"]
"""What holds a program: bubblewrap; Landlock; nothing but limits; `off`: none is run."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run.

    Attributes:
        argv: the program and its arguments; found by PATH.
        cwd: where it starts, absolute in the mount tree.
        stdin: what it can read.
        wall_s: how long it may take; None: as long as the configuration allows.
    """

    argv: tuple[str, ...]
    cwd: str
    stdin: bytes = b""
    wall_s: float | None = None


@dataclass(frozen=True, slots=True)
class Captured:
    """What a program wrote to one stream.

    Attributes:
        head, tail: its beginning and its end; together all of it when nothing was cut.
        size_bytes: how much it wrote.
        path: the file of the mount tree with all of it; empty when nothing was cut.
    """

    head: bytes
    tail: bytes
    size_bytes: int
    path: str = ""

    @property
    def cut_bytes(self) -> int:
        """What is in the file only."""
        return self.size_bytes - len(self.head) - len(self.tail)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, and all of its tree with it.

    Attributes:
        exit_code: 0 to 255 as a shell has it; 128 + n after signal n.
        stopped: the limit that ended it, as a sentence; empty when it ended by itself.
        timed_out: True when that limit was the time.
        kind: what held it.
        note: a limit that it met and went on, as a sentence.
    """

    exit_code: int
    stdout: Captured
    stderr: Captured
    duration_s: float
    kind: SandboxKind
    stopped: str = ""
    timed_out: bool = False
    note: str = ""


class Programs(Protocol):
    """Runs programs for one caller, with his rights."""

    async def run(self, command: Command) -> Ended:
        """Runs a program to its end.

        Raises:
            NoSandboxError: EOPNOTSUPP, there is no sandbox for this caller, and why.
            CapacityError: EAGAIN, too many of the caller's programs run.

        Suspends until it has ended. Cancelling ends it, and everything it started.
        """
        ...
