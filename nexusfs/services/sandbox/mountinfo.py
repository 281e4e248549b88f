"""What is mounted where, as Linux says it. Source: proc_pid_mountinfo(5)."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount: the device, as `major:minor`, and which of its directories is to be seen."""

    device: str
    root: str


def mounted(pid: int | str) -> dict[str, Mounted]:
    """The mounts that a process sees, by place; of several at one place the last."""
    found = {}
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ")
                found[_plain(fields[4])] = Mounted(fields[2], _plain(fields[3]))
    except OSError:
        pass
    return found


def own_device(mountpoint: str) -> str:
    """The device of what this process sees at `mountpoint`; empty for nothing."""
    found = mounted("self").get(mountpoint)
    return found.device if found else ""


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
