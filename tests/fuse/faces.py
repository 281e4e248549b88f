"""Two faces of one kernel: the files of a mount, and Python in process.

A test that takes a `Face` holds for both. Both raise `Refused` with the errno's name, and
describe an agent by status.json.
"""

import concurrent.futures
import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from nexusfs.boot.connect import SyncKernel
from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.node import Change
from tests.fuse.shell import PATIENCE_S, ctl, name_of, request, until


class Refused(Exception):
    """What was asked for failed; `args` is the errno's name, and the sentence if there is one."""

    @property
    def errno(self) -> str:
        """`EPERM` and its kin."""
        return str(self.args[0])


class Face(Protocol):
    """What the rows of the reference need. `agent` keys are those of status.json."""

    name: str

    def spawn(self, **spec: Any) -> int: ...
    def agent(self, pid: int) -> dict[str, Any]: ...
    def text(self, path: str) -> str: ...
    def put(self, path: str, text: str, mode: int = 0o644) -> None: ...
    def signal(self, pid: int, verb: str) -> str: ...
    def kill(self, pid: int, reason: str = "") -> bool: ...
    def send(self, pid: int, text: str) -> None: ...
    def wait(self, pid: int, timeout_s: float = PATIENCE_S) -> tuple[int, str]: ...
    def pids(self, zone: str | None = None, state: str | None = None) -> list[int]: ...
    def dispatch(self, tool: str, as_agent: int = 0, **arguments: Any) -> dict[str, Any]: ...
    def at_once(self, count: int, call: Callable[[], Any]) -> list[Any]: ...


class FilesFace:
    """The kernel as a shell sees it."""

    name = "files"

    def __init__(self, mnt: Path) -> None:
        self.mnt = mnt

    def spawn(self, **spec: Any) -> int:
        failed, text = request(self.mnt / "proc/spawn", spec)
        if failed:
            raise Refused(failed, text)
        return int(text)

    def agent(self, pid: int) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.text(f"/proc/{pid}/status.json"))
        except OSError as exc:
            raise Refused(name_of(exc)) from exc
        return found

    def text(self, path: str) -> str:
        return (self.mnt / path.lstrip("/")).read_text()

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.mnt / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def signal(self, pid: int, verb: str) -> str:
        if verb == "checkpoint":
            failed, text = request(self.mnt / f"proc/{pid}/ctl", b"checkpoint\n")
            if failed:
                raise Refused(failed, text)
            return text.strip()
        try:
            ctl(self.mnt, pid, verb)
        except OSError as exc:
            raise Refused(name_of(exc)) from exc
        return ""

    def kill(self, pid: int, reason: str = "") -> bool:
        try:
            self.signal(pid, f"kill {reason}")
        except Refused as exc:
            if exc.errno == "EBUSY":
                return False
            raise
        return True

    def send(self, pid: int, text: str) -> None:
        try:
            (self.mnt / f"proc/{pid}/stdin").write_text(text)
        except OSError as exc:
            raise Refused(name_of(exc)) from exc

    def wait(self, pid: int, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        command = ["timeout", str(timeout_s), "cat", str(self.mnt / f"proc/{pid}/wait")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused("ETIMEDOUT" if done.returncode == 124 else "ENOENT")
        _, code, reason = done.stdout.rstrip("\n").split(" ", 2)
        return int(code), reason

    def pids(self, zone: str | None = None, state: str | None = None) -> list[int]:
        found = [int(name) for name in os.listdir(self.mnt / "proc") if name.isdigit()]
        agents = {pid: self.agent(pid) for pid in sorted(found) if pid != 1}
        return [
            pid
            for pid, agent in agents.items()
            if zone in (None, agent["zone"]) and state in (None, agent["state"])
        ]

    def dispatch(self, tool: str, as_agent: int = 0, **arguments: Any) -> dict[str, Any]:
        directory = f"proc/{as_agent}/dispatch" if as_agent else "dispatch"
        try:
            failed, text = request(self.mnt / directory / tool, arguments)
        except OSError as exc:
            raise Refused(name_of(exc)) from exc
        reply: dict[str, Any] = json.loads(text)
        if failed and failed != "EREMOTEIO":
            raise Refused(failed, reply["error"])
        return reply

    def at_once(self, count: int, call: Callable[[], Any]) -> list[Any]:
        return _at_once(count, call)


class PythonFace:
    """The kernel by its system calls."""

    name = "python"

    def __init__(self, kernel: SyncKernel) -> None:
        self.kernel = kernel

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A system call by its name."""
        try:
            return getattr(self.kernel, name)(*args, **kwargs)
        except KernelError as exc:
            raise Refused(
                errno.errorcode[exc.errno].replace("ENOTSUP", "EOPNOTSUPP"), str(exc)
            ) from exc

    def spawn(self, **spec: Any) -> int:
        return int(self.call("sys_proc_spawn", spec).pid)

    def agent(self, pid: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text(f"/proc/{pid}/status.json"))
        return found

    def text(self, path: str) -> str:
        data: bytes = self.call("read_file", path)
        return data.decode()

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        self.call("make_dirs", os.path.dirname(path))
        self.call("write_file", path, text.encode())
        self.call("sys_setattr", path, Change(mode=mode))

    def signal(self, pid: int, verb: str) -> str:
        if verb == "checkpoint":
            return str(self.call("sys_proc_checkpoint", pid).checkpoint_hash)
        word, _, rest = verb.partition(" ")
        if word == "nice":
            self.call("sys_proc_nice", pid, int(rest))
        elif word == "steer":
            self.call("sys_proc_steer", pid, rest)
        elif word in ("term", "kill"):
            self.call("sys_proc_kill", pid, rest, term=word == "term")
        else:
            self.call("sys_proc_signal", pid, verb)
        return ""

    def kill(self, pid: int, reason: str = "") -> bool:
        return bool(self.call("sys_proc_kill", pid, reason)["terminated"])

    def send(self, pid: int, text: str) -> None:
        self.call("sys_proc_send", pid, text)

    def wait(self, pid: int, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        status = self.call("sys_proc_wait", pid, timeout_s)
        return status.exit_code, status.reason

    def pids(self, zone: str | None = None, state: str | None = None) -> list[int]:
        return [info.pid for info in self.call("sys_proc_list", zone, state)]

    def dispatch(self, tool: str, as_agent: int = 0, **arguments: Any) -> dict[str, Any]:
        if as_agent:
            text = json.dumps(arguments).encode()
            try:
                self.call("write_file", f"/proc/{as_agent}/dispatch/{tool}", text)
            except Refused as exc:
                return {"name": tool, "success": False, "error": exc.args[1], "errno": exc.errno}
            return {"name": tool, "success": True}
        result = self.call("sys_dispatch", tool, arguments)
        found: dict[str, Any] = json.loads(result.to_json())
        return found

    def at_once(self, count: int, call: Callable[[], Any]) -> list[Any]:
        return _at_once(count, call)


def _at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    """What so many calls in threads return or raise."""

    def one(_: int) -> Any:
        try:
            return call()
        except Refused as exc:
            return exc

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def state(face: Face, pid: int) -> str:
    """The state in a word."""
    return str(face.agent(pid)["state"])


def refusal(call: Callable[[], Any]) -> str:
    """The errno's name that a call is refused with."""
    try:
        call()
    except Refused as exc:
        return exc.errno
    raise AssertionError("it was not refused")


def events(face: Face, pid: int, kind: str = "") -> list[dict[str, Any]]:
    """What happened to an agent; of one kind where one is named."""
    rows = [json.loads(line) for line in face.text(f"/proc/{pid}/events").splitlines()]
    return [row for row in rows if kind in ("", row["type"])]


def transcript(face: Face, pid: int) -> list[dict[str, Any]]:
    """The messages of an agent."""
    return [json.loads(line) for line in face.text(f"/proc/{pid}/messages.jsonl").splitlines()]


def rest(face: Face, pid: int) -> int:
    """The pid, when the agent waits for a message."""
    until(lambda: face.text(f"/proc/{pid}/wchan") == "message\n")
    return pid
