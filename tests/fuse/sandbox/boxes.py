"""What the tests of escapes share: a mount with what holds its programs, and a user."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.fuse.programs import sandboxes
from tests.fuse.shell import opened, read, until

SECRET = "sk-this-is-nobodys-business"
LIMITS = {
    "NEXUSFS_SANDBOX__OUTPUT_MB": "2", "NEXUSFS_SANDBOX__PROCESSES": "40",
    "NEXUSFS_SANDBOX__MEMORY_MB": "128", "OPENAI_API_KEY": SECRET,
}  # fmt: skip
NOBODY = 65534


@dataclass(frozen=True)
class Held:
    """A mount whose programs one kind of sandbox holds."""

    kind: str
    mnt: Path
    store: Path

    @property
    def inside(self) -> str:
        """What a program calls the top of the mount."""
        return "/nexus" if self.kind == "bwrap" else str(self.mnt)


def answers(box: Held) -> bool:
    """True when the mount serves as ever, and no sandbox is left."""
    until(lambda: sandboxes(box.mnt) == 0, 5)
    return (box.mnt / "README").exists() and "running" in read(box.mnt, 1, "status")


def as_nobody(path: Path, text: str) -> None:
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with opened(path) as fd:
                os.write(fd, text.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
