"""Running programs through dispatch/exec and dispatch/python, as a person and as an agent."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuse.shell import request, until

LANDLOCK = {"NEXUSFS_SANDBOX__BUBBLEWRAP": "false"}
"""What a mount where bubblewrap does not work has."""
NOTHING_ELSE = {"NEXUSFS_SANDBOX__LANDLOCK": "false"}


def run(
    mnt: Path, command: str | list[str], tool: str = "exec", agent: int = 0, **more: Any
) -> str:
    """The output of a program that ran to its end; as an agent where one is given."""
    failed, reply = tried(mnt, command, tool, agent, **more)
    assert not failed, reply
    output: str = reply["output"]
    return output


def tried(
    mnt: Path, command: str | list[str], tool: str = "exec", agent: int = 0, **more: Any
) -> tuple[str, dict[str, Any]]:
    """("" or the errno's name, the reply) of a program."""
    directory = mnt / f"proc/{agent}/dispatch" if agent else mnt / "dispatch"
    name = "script" if tool == "python" else "command"
    failed, text = request(directory / tool, {name: command, **more})
    return failed, json.loads(text)


@contextmanager
def waiting(mnt: Path, command: str, agent: int = 0) -> Iterator["subprocess.Popen[bytes]"]:
    """A shell whose write waits for a program that runs; killed at the end of the block."""
    path = f"{mnt}/proc/{agent}/dispatch/exec" if agent else f"{mnt}/dispatch/exec"
    text = json.dumps({"command": command})
    before = sandboxes(mnt)
    with subprocess.Popen(
        ["bash", "-c", 'exec 3<>"$0"; printf %s "$1" >&3', path, text],
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as writer:  # fmt: skip
        try:
            until(lambda: sandboxes(mnt) > before)
            yield writer
        finally:
            writer.kill()


def sandboxes(mnt: Path) -> int:
    """How many sandboxes live."""
    lines = (mnt / "sys/sessions").read_text().splitlines()
    return int(dict(line.split() for line in lines)["sandboxes"])


def marked(mark: str) -> list[int]:
    """The processes of the host that have a word in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words:
                found.append(int(name))
    return found


def gone(mark: str, within_s: float) -> bool:
    """True when all marked processes end in time."""
    deadline = time.monotonic() + within_s
    while marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
