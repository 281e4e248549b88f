"""Tools that take their time: whom they keep waiting (nobody), and what cancels them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import (
    PATIENCE_S,
    children_of,
    end,
    errno_of,
    errors,
    expect,
    idle,
    ok,
    opened,
    ready,
    reply,
    running,
    running_tools,
    sh,
    terminal,
    until,
)

pytestmark = pytest.mark.fuse

PLUGINS = Path(__file__).parent / "plugins"
SOON_S = 3.0
"""Generous: the contract says 200 ms for a signal, and `at once` for what does not block."""


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    environment = {"NEXUSFS_TOOL_MODULES": '["slow_tools"]', "PYTHONPATH": str(PLUGINS)}
    return mounts.mount(env=environment)


@pytest.fixture
def chatty(mnt: Path) -> Iterator[int]:
    """A chat agent that waits for a message, and goes when the test ends."""
    pid = idle(mnt)
    yield pid
    end(mnt, pid)


@contextmanager
def slow_call(mnt: Path, note: str, seconds: float = 4.0) -> Iterator[subprocess.Popen[str]]:
    """A shell whose echo to dispatch/linger is under way."""
    text = json.dumps({"seconds": seconds, "note": f"/{note}"})
    tools = running_tools(mnt)
    script = 'echo "$1" > dispatch/linger'
    with running(mnt, "bash", "-c", script, "bash", text) as process:
        until(lambda: running_tools(mnt) > tools)
        yield process


def test_a_slow_tool_keeps_nobody_waiting(mnt: Path, chatty: int) -> None:
    with slow_call(mnt, "slow-1", seconds=1.5) as first:
        began = time.monotonic()
        ok(sh(mnt, 'echo \'{"seconds": 0, "note": "/quick"}\' > dispatch/linger'))
        ok(sh(mnt, f"ls dispatch proc; cat proc/{chatty}/status dispatch/linger"))
        ok(sh(mnt, "printf '%s\\n' '{\"path\": \"/quick\"}' > dispatch/read_file"))
        served_s = time.monotonic() - began
        still = first.poll()
        first.communicate(timeout=PATIENCE_S)

    assert still is None and served_s < 1.4
    assert first.returncode == 0
    assert (mnt / "slow-1").read_text() == (mnt / "quick").read_text() == "done\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_frees_the_writer_and_cancels_the_call(mnt: Path, number: signal.Signals) -> None:
    note = f"cut-{number}"

    with slow_call(mnt, note, seconds=60.0) as process:
        process.send_signal(number)
        process.wait(timeout=SOON_S)

    assert process.returncode == -number
    until(lambda: running_tools(mnt) == 0)
    assert (mnt / note).read_text() == "cancelled\n"


def test_timeout_of_a_writer_is_124_and_cancels_the_call(mnt: Path) -> None:
    text = json.dumps({"seconds": 60, "note": "/late"})

    done = sh(mnt, 'timeout 0.5 sh -c \'echo "$1" > dispatch/linger\' sh "$1"', text)

    assert done.returncode == 124
    until(lambda: running_tools(mnt) == 0)
    assert (mnt / "late").read_text() == "cancelled\n"


def test_a_signal_frees_a_writer_that_did_not_open_the_handle(mnt: Path) -> None:
    text = json.dumps({"seconds": 60, "note": "/foreign"})
    script = "exec 3>dispatch/linger; printf '%s\\n' \"$1\" | dd status=none >&3"

    with running(mnt, "bash", "-c", script, "bash", text) as process:
        until(lambda: running_tools(mnt) > 0)
        until(lambda: children_of(process.pid))
        time.sleep(0.2)
        for child in children_of(process.pid):
            os.kill(child, signal.SIGINT)
        process.wait(timeout=SOON_S)

    until(lambda: running_tools(mnt) == 0)
    assert (mnt / "foreign").read_text() == "cancelled\n"


def test_calls_of_one_tool_run_side_by_side(mnt: Path) -> None:
    text = json.dumps({"seconds": 0.8, "note": "/side"})
    script = 'for i in 1 2 3 4 5; do echo "$1" > dispatch/linger & done; wait'

    began = time.monotonic()
    ok(sh(mnt, script, text))

    assert time.monotonic() - began < 1.5


def test_o_nonblock_starts_a_call_and_poll_says_when_the_reply_is_there(mnt: Path) -> None:
    text = json.dumps({"seconds": 0.4, "note": "/later"}).encode()

    with opened(mnt / "dispatch/linger", os.O_RDWR | os.O_NONBLOCK) as fd:
        began = time.monotonic()
        os.write(fd, text)
        wrote_s = time.monotonic() - began
        early = errno_of(os.read, fd, 1000)
        became = ready("poll", fd, PATIENCE_S)
        said = json.loads(reply(fd))

    assert wrote_s < 0.3
    assert early == "EAGAIN" and became
    assert said["output"] == "waited 0.4 s" and said["success"]


def test_a_nonblocking_call_that_fails_says_so_in_the_reply(mnt: Path) -> None:
    with opened(mnt / "dispatch/broken", os.O_RDWR | os.O_NONBLOCK) as fd:
        os.write(fd, b"{}")
        assert ready("poll", fd, PATIENCE_S)
        said = json.loads(reply(fd))

    assert not said["success"] and "internal error" in said["error"]


def test_a_tool_over_its_limit_is_etimedout(mnt: Path) -> None:
    with opened(mnt / "dispatch/overdue") as fd:
        assert errno_of(os.write, fd, b"{}") == "ETIMEDOUT"
        assert "0.2 s" in json.loads(reply(fd))["error"]


def test_a_tool_that_breaks_is_eremoteio_and_harms_nobody(mnt: Path) -> None:
    with opened(mnt / "dispatch/broken") as fd:
        assert errno_of(os.write, fd, b"{}") == "EREMOTEIO"
        assert "internal error" in json.loads(reply(fd))["error"]

    assert (mnt / "sys/version").read_text()


def test_last_is_the_reply_of_the_callers_newest_call(mnt: Path) -> None:
    script = (
        'echo \'{"path": "/README", "limit": 1}\' > dispatch/read_file; cat dispatch/.last;'
        "readlink dispatch/.last; ls dispatch/.calls | wc -l"
    )

    said = ok(sh(mnt, script)).splitlines()

    assert json.loads(said[0])["name"] == "read_file"
    assert said[1] == f".calls/{json.loads(said[0])['tool_call_id']}"
    assert int(said[2]) >= 1


def test_the_reply_of_a_failed_call_is_kept_too(mnt: Path) -> None:
    done = sh(mnt, 'echo \'{"path": "/absent"}\' > dispatch/read_file; cat dispatch/.last')

    said = json.loads(done.stdout)
    assert not said["success"] and "/absent" in said["error"]


def test_an_unknown_tool_is_enoent_and_names_the_nearest(mnt: Path) -> None:
    done = sh(mnt, "echo '{}' > dispatch/reed_file")

    assert "No such file" in done.stderr
    assert "did you mean 'read_file'?" in errors(mnt)[-1]["message"]


def test_ctrl_c_at_a_terminal_frees_an_echo_and_cancels_its_call(mnt: Path) -> None:
    text = json.dumps({"seconds": 60, "note": "/typed"})

    with terminal(mnt) as fd:
        os.write(fd, f"echo '{text}' > dispatch/linger\n".encode())
        until(lambda: running_tools(mnt) > 0)
        os.write(fd, b"\x03")
        until(lambda: running_tools(mnt) == 0)
        os.write(fd, b"echo still-$((1+1))-here\n")
        expect(fd, b"still-2-here")

    assert (mnt / "typed").read_text() == "cancelled\n"
