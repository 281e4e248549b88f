"""What is mounted where, as Linux says it. Source: proc_pid_mountinfo(5)."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount: the device, as `major:minor`, which of its directories is seen, and its type."""

    device: str
    root: str
    kind: str


def mounted(pid: int | str) -> dict[str, Mounted]:
    """The mounts that a process sees, by place; of several at one place the last."""
    found = {}
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ")
                kind = fields[fields.index("-") + 1]
                found[_plain(fields[4])] = Mounted(fields[2], _plain(fields[3]), kind)
    except OSError:
        pass
    return found


def mount_at(mountpoint: str) -> Mounted | None:
    """The FUSE mount that this process sees at `mountpoint`; None for none (yet)."""
    found = mounted("self").get(mountpoint)
    return found if found is not None and found.kind.startswith("fuse") else None


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
