"""Starts what is measured: a NexusFS mount, the plain pyfuse3 program, and the client."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexusfs.fs.procfs import AgentDir
from nexusfs.fs.storefs import TTL_S
from nexusfs.fs.taskfs import SteadyDir, TaskDir
from nexusfs.kernel.vfs.kernfs import TextNode

HERE = Path(__file__).parent
NEXUSFS = str(Path(sys.executable).parent / "nexusfs")
WAIT_S = 20.0
AGENT = {"model": "offline/echo", "mode": "chat", "name": "bench"}

TIMEOUTS = {
    "root": (TTL_S, TTL_S),
    "proc": (SteadyDir.entry_ttl_s, SteadyDir.attr_ttl_s),
    "agent": (AgentDir.entry_ttl_s, AgentDir.attr_ttl_s),
    "status": (TextNode.entry_ttl_s, TextNode.attr_ttl_s),
    "kernel": (SteadyDir.entry_ttl_s, SteadyDir.attr_ttl_s),
    "task": (TaskDir.entry_ttl_s, TaskDir.attr_ttl_s),
    "file": (TTL_S, TTL_S),
}
"""(entry, attribute) timeouts of our tree, for the plain program to use the same."""


def nexusfs(*arguments: str, directory: Path) -> None:
    """Runs a nexusfs command, unaware of the user's own configuration."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NEXUSFS_")}
    done = subprocess.run(
        [NEXUSFS, *arguments], env={**clean, "XDG_CONFIG_HOME": str(directory / "config")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"nexusfs {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def mounted(directory: Path, name: str = "nexus") -> Iterator[Path]:
    """A NexusFS mount of the store `name` in `directory`."""
    mnt = directory / f"mnt-{name}"
    mnt.mkdir(exist_ok=True)
    nexusfs("mount", str(mnt), "--store", str(directory / f"store-{name}"), directory=directory)
    try:
        yield mnt
    finally:
        nexusfs("umount", "-l", str(mnt), directory=directory)


@contextmanager
def plain(directory: Path, content: bytes) -> Iterator[Path]:
    """The plain program, serving `content` at proc/2/status below the path."""
    mnt = directory / "mnt-plain"
    mnt.mkdir()
    told = {
        "content": content.decode(),
        "timeouts": TIMEOUTS,
        "options": ["fsname=plain", "default_permissions"],
    }
    program = subprocess.Popen(
        [sys.executable, str(HERE / "plain_pyfuse3.py"), str(mnt), json.dumps(told)]
    )
    try:
        _wait_for(mnt / "proc/2/status")
        yield mnt
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(mnt)], check=False)
        program.wait(WAIT_S)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} did not appear")
        time.sleep(0.02)


class Client:
    """The process with the timed loops."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "client.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(
        self, op: str, targets: dict[str, Any], rounds: int, count: int
    ) -> dict[str, list[list[int]]]:
        """Nanoseconds of each operation, by target and round. See `client`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"op": op, "targets": targets, "rounds": rounds, "count": count}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, list[list[int]]] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(WAIT_S)


@dataclass
class Bench:
    """Everything that a measure may use.

    Attributes:
        mnt, plain, ext4: three directories; each has proc/<pid>/status and a directory files.
        pid: the agent whose status is read.
    """

    directory: Path
    mnt: Path
    plain: Path
    ext4: Path
    pid: int
    client: Client

    @property
    def status(self) -> dict[str, str]:
        """The three status files, by rival."""
        return {
            "nexusfs": str(self.mnt / f"proc/{self.pid}/status"),
            "plain": str(self.plain / "proc/2/status"),
            "ext4": str(self.ext4 / "proc/2/status"),
        }

    @property
    def daemon_pid(self) -> int:
        line = (self.mnt / "sys/mounts").read_text().splitlines()[0]
        return int(json.loads(line)["pid"])


@contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    """Two mounts, a directory, and an agent that waits for a message."""
    with mounted(directory) as mnt:
        pid = spawn(mnt, AGENT)
        settled(mnt, pid)
        content = (mnt / f"proc/{pid}/status").read_bytes()
        ext4 = directory / "ext4"
        (ext4 / "proc/2").mkdir(parents=True)
        (ext4 / "proc/2/status").write_bytes(content)
        (ext4 / "files").mkdir()
        (mnt / "files").mkdir()
        with plain(directory, content) as other:
            client = Client()
            try:
                yield Bench(directory, mnt, other, ext4, pid, client)
            finally:
                client.close()


def spawn(mnt: Path, spec: dict[str, Any]) -> int:
    """The pid of a new agent."""
    fd = os.open(mnt / "proc/spawn", os.O_RDWR)
    try:
        os.write(fd, json.dumps(spec).encode())
        return int(os.read(fd, 64))
    finally:
        os.close(fd)


def settled(mnt: Path, pid: int) -> None:
    """Returns when the agent waits for a message."""
    deadline = time.monotonic() + WAIT_S
    while (mnt / f"proc/{pid}/wchan").read_text() != "message\n":
        if time.monotonic() > deadline:
            raise SystemExit(f"agent {pid} does not come to rest")
        time.sleep(0.01)


def filesystem(directory: Path) -> str:
    """The type of the filesystem that a directory is on, as `ext4`."""
    done = subprocess.run(
        ["stat", "-f", "-c", "%T", str(directory)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().replace("ext2/ext3", "ext4")


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB of 10^6 bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6
