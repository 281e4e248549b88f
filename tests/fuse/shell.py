"""What the mount tests do to a mount: shell lines, requests on one handle, and patience."""

import errno
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
SHELLS = {"bash": ("bash",), "dash": ("dash",), "busybox": ("busybox", "sh")}
CLEAN = {**os.environ, "LC_ALL": "C", "ENV": "", "BASH_ENV": ""}


def sh(
    mnt: Path, script: str, *words: str | Path, shell: str = "bash", user: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a script at the top of the mount, in a POSIX session of its own."""
    return subprocess.run(
        command(script, *words, shell=shell, user=user), cwd=mnt, capture_output=True, text=True,
        check=False, timeout=PATIENCE_S, start_new_session=True, env=CLEAN,
    )  # fmt: skip


def command(script: str, *words: str | Path, shell: str = "bash", user: int = 0) -> list[str]:
    """The words that run a script in a shell, as another user where one is given."""
    as_user = [
        "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--",
    ] if user else []  # fmt: skip
    return [*as_user, *SHELLS[shell], "-c", script, shell, *map(str, words)]


@contextmanager
def running(mnt: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A program at the top of the mount; killed at the end of the block if it still runs."""
    with subprocess.Popen(
        words, cwd=mnt, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=CLEAN,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=PATIENCE_S)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """The standard output of a program that must have succeeded quietly."""
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    """A descriptor, closed at the end of the block."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def held(path: Path) -> Iterator[int]:
    """A descriptor to read, closed at the end of the block, whose daemon may be gone by then."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        assert errno_of(os.close, fd) in ("", "ENOTCONN", "ECONNABORTED")


def reply(fd: int) -> bytes:
    """All that can be read of a handle after a request."""
    pieces = []
    while piece := os.read(fd, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def request(path: Path, data: bytes | dict[str, Any]) -> tuple[str, str]:
    """Writes once and reads the same handle: ("" or the errno's name, the reply)."""
    if isinstance(data, dict):
        data = json.dumps(data).encode()
    with opened(path) as fd:
        try:
            os.write(fd, data)
            failed = ""
        except OSError as exc:
            failed = name_of(exc)
        return failed, reply(fd).decode()


def name_of(exc: OSError) -> str:
    """`EINVAL` and its kin."""
    name = errno.errorcode[exc.errno or 0]
    return "EOPNOTSUPP" if name == "ENOTSUP" else name  # one number on Linux


def errno_of(call: Callable[..., Any], *arguments: Any) -> str:
    """The name of the errno that a call fails with; empty when it does not fail."""
    try:
        call(*arguments)
    except OSError as exc:
        return name_of(exc)
    return ""


def spawn(mnt: Path, **spec: Any) -> int:
    """Spawns an agent (offline/echo when no model is named); its pid."""
    failed, text = request(mnt / "proc/spawn", {"model": "offline/echo", **spec})
    assert not failed, text
    return int(text)


def idle(mnt: Path, **spec: Any) -> int:
    """Spawns a chat agent without a task, which waits for a message."""
    pid = spawn(mnt, mode="chat", **spec)
    until(lambda: wchan(mnt, pid) == "message")
    return pid


def play(mnt: Path, script: Path, *turns: dict[str, Any], **spec: Any) -> int:
    """Spawns an agent whose model plays the turns, which are written to `script`."""
    script.write_text(json.dumps(turns))
    return spawn(mnt, **{"model": f"offline/script:{script}", "task": "go", **spec})


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A turn of a script that calls one tool."""
    return {"tool_calls": [{"name": name, "arguments": arguments}]}


def ctl(mnt: Path, pid: int, line: str) -> None:
    """Writes one line to ctl."""
    with opened(mnt / f"proc/{pid}/ctl", os.O_WRONLY) as fd:
        os.write(fd, f"{line}\n".encode())


def end(mnt: Path, pid: int) -> None:
    """Kills an agent that may have ended."""
    assert errno_of(ctl, mnt, pid, "kill") in ("", "EBUSY")


def wait(mnt: Path, pid: int) -> str:
    """How an agent ended, as `wait` says it; fails when it takes too long."""
    done = subprocess.run(
        ["cat", mnt / f"proc/{pid}/wait"], capture_output=True, text=True, check=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    return done.stdout.rstrip("\n")


def wchan(mnt: Path, pid: int) -> str:
    """What an agent waits for."""
    return read(mnt, pid, "wchan").rstrip("\n")


def read(mnt: Path, pid: int, name: str) -> str:
    """One file of an agent."""
    return (mnt / f"proc/{pid}/{name}").read_text()


def events(mnt: Path, pid: int) -> list[dict[str, Any]]:
    """All that happened to an agent."""
    return [json.loads(line) for line in read(mnt, pid, "events").splitlines()]


def pids(mnt: Path) -> set[int]:
    """All agents that are listed."""
    return {int(name) for name in os.listdir(mnt / "proc") if name.isdigit()} - {1}


def errors(mnt: Path) -> list[dict[str, Any]]:
    """The caller's lines of sys/error_log."""
    return [json.loads(line) for line in (mnt / "sys/error_log").read_text().splitlines()]


def daemon(mnt: Path) -> int:
    """The pid of the daemon that serves a mount."""
    return int(json.loads((mnt / "sys/mounts").read_text())["pid"])


def blocked(mnt: Path) -> int:
    """How many calls wait in the kernel."""
    lines = (mnt / "sys/sessions").read_text().splitlines()
    return int(dict(line.split() for line in lines)["blocked_calls"])


def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Returns as soon as the condition holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {patience_s} s"
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    """The children of a process of the host that its first thread started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running_tools(mnt: Path) -> int:
    """How many tool calls run."""
    lines = (mnt / "sys/sessions").read_text().splitlines()
    return int(dict(line.split() for line in lines)["running_tools"])


def ready(way: str, fd: int, timeout_s: float) -> bool:
    """True when the descriptor becomes readable in time."""
    if way == "select":
        return bool(select.select([fd], [], [], timeout_s)[0])
    if way == "poll":
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        return bool(epoll.poll(timeout_s))


@contextmanager
def terminal(mnt: Path) -> Iterator[int]:
    """A bash at a terminal of its own, at the top of the mount; the terminal's other end."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(mnt)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**CLEAN, "PS1": "$ "})
    try:
        yield fd
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


def expect(fd: int, text: bytes) -> None:
    """Reads a terminal until the text was there."""
    seen = b""
    while text not in seen:
        assert ready("poll", fd, PATIENCE_S), seen
        seen += os.read(fd, 4096)


def inputs(mnt: Path, pid: int) -> list[str]:
    """The messages that arrived, in order."""
    return [event["text"] for event in events(mnt, pid) if event["type"] == "message"]
