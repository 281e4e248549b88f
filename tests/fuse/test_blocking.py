"""What blocks, whom it keeps waiting (nobody else), and what frees it."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import (
    PATIENCE_S,
    blocked,
    daemon,
    end,
    errno_of,
    idle,
    ok,
    opened,
    pids,
    play,
    reply,
    running,
    sh,
    spawn,
    until,
)

pytestmark = pytest.mark.fuse

PLUGINS = Path(__file__).parent / "plugins"
SOON_S = 3.0
"""Generous: the contract says 200 ms for a signal, and `at once` for what does not block."""
MANY = 300
READERS = """
import os, sys, threading
def read(path):
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 65536): pass
    os.close(fd)
threads = [threading.Thread(target=read, args=(path,)) for path in sys.argv[2:]
           for _ in range(int(sys.argv[1]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("all are free")
"""


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
def reader(mnt: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A program that is blocked by the mount."""
    before = blocked(mnt)
    with running(mnt, *words) as process:
        until(lambda: blocked(mnt) > before)
        yield process


def took(began: float) -> float:
    return time.monotonic() - began


# -- many readers


def test_300_blocked_readers_slow_nobody_and_are_freed_by_the_end(mnt: Path, chatty: int) -> None:
    files = [f"proc/{chatty}/wait", f"proc/{chatty}/events_pipe"]

    with running(mnt, sys.executable, "-c", READERS, str(MANY // 2), *files) as readers:
        until(lambda: blocked(mnt) >= MANY)
        began = time.monotonic()
        status = ok(sh(mnt, f"cat proc/{chatty}/status; ls proc dispatch; echo x > note; cat note"))
        served_s = took(began)
        end(mnt, chatty)
        said, _ = readers.communicate(timeout=PATIENCE_S)

    assert "S" in status and served_s < SOON_S
    assert said == "all are free\n"
    until(lambda: blocked(mnt) == 0)


def test_300_blocked_processes_are_freed_by_one_ctrl_c(mnt: Path, chatty: int) -> None:
    script = f'i=0; while [ $i -lt {MANY} ]; do cat "$1" & i=$((i+1)); done; wait'

    with running(mnt, "bash", "-c", f"trap : INT; {script}", "bash", f"proc/{chatty}/wait") as all_:
        until(lambda: blocked(mnt) >= MANY)
        state = ok(sh(mnt, f"cat proc/{chatty}/status"))
        # A script's background jobs ignore SIGINT, as POSIX says; they get what a terminal sends.
        os.killpg(all_.pid, signal.SIGHUP)
        all_.wait(timeout=PATIENCE_S)

    assert "R (running)" in state
    until(lambda: blocked(mnt) == 0)


# -- what frees a reader


@pytest.mark.parametrize("name", ["wait", "events_pipe", "stdout_pipe"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_frees_a_reader(mnt: Path, chatty: int, name: str, number: signal.Signals) -> None:
    with reader(mnt, "cat", f"proc/{chatty}/{name}") as process:
        process.send_signal(number)
        process.wait(timeout=SOON_S)

    assert process.returncode == -number
    until(lambda: blocked(mnt) == 0)


@pytest.mark.parametrize("name", ["wait", "events_pipe"])
def test_timeout_1_cat_is_124(mnt: Path, chatty: int, name: str) -> None:
    began = time.monotonic()

    done = sh(mnt, f"timeout 0.5 cat proc/{chatty}/{name}")

    assert done.returncode == 124
    assert took(began) < SOON_S


def test_a_signal_that_is_handled_interrupts_the_read_and_it_goes_on(
    mnt: Path, chatty: int
) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: print('seen', flush=True));"
        "print(open(sys.argv[1]).read(), end='')"
    )

    with reader(mnt, sys.executable, "-c", program, f"proc/{chatty}/wait") as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stdout and process.stdout.readline() == "seen\n"
        end(mnt, chatty)
        said, _ = process.communicate(timeout=PATIENCE_S)

    assert said == f"{chatty} -9 killed\n"


def test_a_signal_that_is_ignored_frees_nobody(mnt: Path, chatty: int) -> None:
    with reader(mnt, "bash", "-c", f"trap '' TERM; exec cat proc/{chatty}/wait") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        still = process.poll()
        end(mnt, chatty)
        said, _ = process.communicate(timeout=PATIENCE_S)

    assert still is None
    assert said == f"{chatty} -9 killed\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_a_signal_frees_another_process_that_reads_the_handle(
    mnt: Path, chatty: int, shell: str, number: signal.Signals
) -> None:
    script = f"exec 3<proc/{chatty}/wait; cat <&3"

    with reader(mnt, shell, "-c", script) as process:
        until(lambda: len(children_of(process.pid)) == 1)
        (child,) = children_of(process.pid)
        time.sleep(0.2)
        os.kill(child, number)
        process.wait(timeout=SOON_S)

    assert process.returncode in (128 + number, -number)
    until(lambda: blocked(mnt) == 0)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_end_of_the_agent_ends_streams_and_wait(mnt: Path, chatty: int) -> None:
    with ExitStack() as stack:
        names = ("wait", "events_pipe", "stdout_pipe")
        readers = [
            stack.enter_context(reader(mnt, "cat", f"proc/{chatty}/{name}")) for name in names
        ]
        end(mnt, chatty)
        said = [one.communicate(timeout=PATIENCE_S)[0] for one in readers]

    assert said[0] == f"{chatty} -9 killed\n"
    assert json.loads(said[1].splitlines()[-1])["to"] == "stopped"
    assert said[2] == ""


def test_every_reader_of_a_pipe_gets_all_of_it(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    ok(sh(mnt, f"cat proc/{pid}/wait"))

    first, second = (ok(sh(mnt, f"cat proc/{pid}/events_pipe")) for _ in range(2))

    assert first == second == (mnt / f"proc/{pid}/events").read_text()


# -- without blocking


@pytest.mark.parametrize("name", ["wait", "stdout_pipe"])
def test_o_nonblock_at_open_is_eagain(mnt: Path, chatty: int, name: str) -> None:
    with opened(mnt / f"proc/{chatty}/{name}", os.O_RDONLY | os.O_NONBLOCK) as fd:
        assert errno_of(os.read, fd, 100) == "EAGAIN"


def test_o_nonblock_reads_what_is_there_and_then_the_end(mnt: Path, chatty: int) -> None:
    with opened(mnt / f"proc/{chatty}/events_pipe", os.O_RDONLY | os.O_NONBLOCK) as fd:
        first = os.read(fd, 1 << 16)
        empty = errno_of(os.read, fd, 100)
        end(mnt, chatty)
        rest = reply(fd)

    assert json.loads(first.splitlines()[0])["type"] == "spawn"
    assert empty == "EAGAIN"
    assert json.loads(rest.splitlines()[-1])["to"] == "stopped"


@pytest.mark.parametrize("way", ["select", "poll", "epoll"])
@pytest.mark.parametrize("name", ["wait", "stdout_pipe"])
def test_poll_sleeps_until_there_is_something(mnt: Path, chatty: int, name: str, way: str) -> None:
    with opened(mnt / f"proc/{chatty}/{name}", os.O_RDONLY | os.O_NONBLOCK) as fd:
        before = ready(way, fd, 0.2)
        program = f"sleep 0.3; echo kill > proc/{chatty}/ctl"
        with running(mnt, "sh", "-c", program):
            after = ready(way, fd, PATIENCE_S)

    assert (before, after) == (False, True)


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


def test_a_poll_that_is_over_wakes_again_for_what_comes_later(mnt: Path, chatty: int) -> None:
    stdin = mnt / f"proc/{chatty}/stdin"
    with opened(mnt / f"proc/{chatty}/stdout_pipe", os.O_RDONLY | os.O_NONBLOCK) as fd:
        said = []
        for word in ("one", "two", "three"):
            stdin.write_text(word)
            assert ready("poll", fd, PATIENCE_S)
            text = b""
            while not text.endswith(b"\n"):
                assert ready("poll", fd, PATIENCE_S)
                text += os.read(fd, 1000)
            said.append(text)

    assert said == [b"one\n", b"two\n", b"three\n"]


# -- programs that read everything


def test_grep_r_returns_and_changes_nothing(mnt: Path, tmp_path: Path, chatty: int) -> None:
    ended = spawn(mnt, task="hello")
    paused = play(mnt, tmp_path / "script.json", {"hang": True})
    agents = (chatty, ended, paused)
    ok(sh(mnt, f"cat proc/{ended}/wait"))
    before = [(mnt / f"proc/{pid}/events").read_bytes() for pid in agents], pids(mnt)

    done = sh(mnt, "grep -r x proc sys dispatch")

    after = [(mnt / f"proc/{pid}/events").read_bytes() for pid in agents], pids(mnt)
    end(mnt, paused)
    # grep opens what it finds with O_NONBLOCK, so what would block is EAGAIN to it.
    faults = {line.rpartition(": ")[2] for line in done.stderr.splitlines()}
    assert faults <= {"Resource temporarily unavailable"}
    assert f"proc/{ended}/status:" in done.stdout
    assert after == before


def test_a_program_that_reads_all_files_waits_as_with_a_pipe(mnt: Path, chatty: int) -> None:
    done = sh(mnt, f"timeout 0.5 cat proc/{chatty}/*_pipe > /dev/null")

    assert done.returncode == 124


def test_tar_of_the_control_trees_comes_back_when_nobody_lives(mnt: Path, tmp_path: Path) -> None:
    for pid in pids(mnt):
        end(mnt, pid)

    done = sh(mnt, 'tar cf "$1" proc sys dispatch && tar tf "$1" | wc -l', tmp_path / "all.tar")

    assert int(done.stdout) > 20, done.stderr
    assert "shrank" not in done.stderr, done.stderr


# -- slow tools


@contextmanager
def slow_call(mnt: Path, note: str, seconds: float = 4.0) -> Iterator[subprocess.Popen[str]]:
    """A shell whose echo to dispatch/linger is under way."""
    text = json.dumps({"seconds": seconds, "note": f"/{note}"})
    tools = running_tools(mnt)
    script = 'echo "$1" > dispatch/linger'
    with running(mnt, "bash", "-c", script, "bash", text) as process:
        until(lambda: running_tools(mnt) > tools)
        yield process


def running_tools(mnt: Path) -> int:
    lines = (mnt / "sys/sessions").read_text().splitlines()
    return int(dict(line.split() for line in lines)["running_tools"])


def test_a_slow_tool_keeps_nobody_waiting(mnt: Path, chatty: int) -> None:
    with slow_call(mnt, "slow-1", seconds=2.0) as first:
        began = time.monotonic()
        ok(sh(mnt, 'echo \'{"seconds": 0, "note": "/quick"}\' > dispatch/linger'))
        ok(sh(mnt, f"ls dispatch proc; cat proc/{chatty}/status dispatch/linger"))
        ok(sh(mnt, "printf '%s\\n' '{\"path\": \"/quick\"}' > dispatch/read_file"))
        served_s = took(began)
        still = first.poll()
        first.communicate(timeout=PATIENCE_S)

    assert still is None and served_s < 1.5
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

    assert took(began) < 1.5


def test_o_nonblock_starts_a_call_and_poll_says_when_the_reply_is_there(mnt: Path) -> None:
    text = json.dumps({"seconds": 0.4, "note": "/later"}).encode()

    with opened(mnt / "dispatch/linger", os.O_RDWR | os.O_NONBLOCK) as fd:
        began = time.monotonic()
        os.write(fd, text)
        wrote_s = took(began)
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
    assert errno_of((mnt / "dispatch/nothing").read_text) == errno.errorcode[errno.ENOENT]


def test_blocked_readers_do_not_outlive_their_death_in_the_daemon(mnt: Path, chatty: int) -> None:
    threads = len(os.listdir(f"/proc/{daemon(mnt)}/task"))

    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(reader(mnt, "cat", f"proc/{chatty}/wait"))

    until(lambda: blocked(mnt) == 0)
    assert len(os.listdir(f"/proc/{daemon(mnt)}/task")) <= threads + 4
