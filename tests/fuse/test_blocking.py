"""What blocks, whom it keeps waiting (nobody else), and what frees it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fuse.shell import (
    PATIENCE_S,
    blocked,
    children_of,
    daemon,
    end,
    errno_of,
    expect,
    idle,
    ok,
    opened,
    pids,
    play,
    ready,
    reply,
    running,
    sh,
    spawn,
    terminal,
    until,
)

pytestmark = pytest.mark.fuse

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

CATS = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: None)
cats = [subprocess.Popen(sys.argv[2:]) for _ in range(int(sys.argv[1]))]
print(sorted({cat.wait() for cat in cats}))
"""


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


# -- many readers


def test_300_blocked_readers_slow_nobody_and_are_freed_by_the_end(mnt: Path, chatty: int) -> None:
    files = [f"proc/{chatty}/wait", f"proc/{chatty}/events_pipe"]

    with running(mnt, sys.executable, "-c", READERS, str(MANY // 2), *files) as readers:
        until(lambda: blocked(mnt) >= MANY)
        began = time.monotonic()
        status = ok(sh(mnt, f"cat proc/{chatty}/status; ls proc dispatch; echo x > note; cat note"))
        served_s = time.monotonic() - began
        end(mnt, chatty)
        said, _ = readers.communicate(timeout=PATIENCE_S)

    assert "S" in status and served_s < SOON_S
    assert said == "all are free\n"
    until(lambda: blocked(mnt) == 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_300_blocked_programs_are_freed_by_a_signal(
    mnt: Path, chatty: int, number: signal.Signals
) -> None:
    words = (sys.executable, "-c", CATS, str(MANY), "cat", f"proc/{chatty}/wait")
    with running(mnt, *words) as parent:
        until(lambda: blocked(mnt) >= MANY)
        state = ok(sh(mnt, f"cat proc/{chatty}/status"))
        for cat in children_of(parent.pid):
            os.kill(cat, number)
        said, _ = parent.communicate(timeout=PATIENCE_S)

    assert "R (running)" in state
    assert said == f"[{-number}]\n"
    until(lambda: blocked(mnt) == 0)


def test_timeout_1_cat_frees_300_readers(mnt: Path, chatty: int) -> None:
    words = ("timeout", "1", "cat", f"proc/{chatty}/events_pipe")

    with running(mnt, sys.executable, "-c", CATS, str(MANY), *words) as parent:
        said, _ = parent.communicate(timeout=PATIENCE_S)

    assert said.endswith("[124]\n")
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
    assert time.monotonic() - began < SOON_S


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


def test_ctrl_c_at_a_terminal_frees_cat(mnt: Path, chatty: int) -> None:
    with terminal(mnt) as fd:
        os.write(fd, f"cat proc/{chatty}/events_pipe > /dev/null\n".encode())
        until(lambda: blocked(mnt) > 0)
        os.write(fd, b"\x03")
        os.write(fd, b"echo status=$?.\n")
        expect(fd, b"status=130.")


def test_the_end_of_the_agent_ends_streams_and_wait(mnt: Path, chatty: int) -> None:
    with ExitStack() as stack:
        names = ("wait", "events_pipe", "stdout_pipe")
        readers = [
            stack.enter_context(reader(mnt, "cat", f"proc/{chatty}/{name}")) for name in names
        ]
        end(mnt, chatty)
        said = [one.communicate(timeout=PATIENCE_S)[0] for one in readers]

    assert said[0] == f"{chatty} -9 killed\n"
    assert [json.loads(line)["type"] for line in said[1].splitlines()][-1:] == ["exit"]
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
    assert json.loads(rest.splitlines()[-1])["type"] == "exit"


@pytest.mark.parametrize("way", ["select", "poll", "epoll"])
@pytest.mark.parametrize("name", ["wait", "stdout_pipe"])
def test_poll_sleeps_until_there_is_something(mnt: Path, chatty: int, name: str, way: str) -> None:
    with opened(mnt / f"proc/{chatty}/{name}", os.O_RDONLY | os.O_NONBLOCK) as fd:
        before = ready(way, fd, 0.1)
        program = f"sleep 0.1; echo kill > proc/{chatty}/ctl"
        with running(mnt, "sh", "-c", program):
            after = ready(way, fd, PATIENCE_S)

    assert (before, after) == (False, True)


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


def test_blocked_readers_do_not_outlive_their_death_in_the_daemon(mnt: Path, chatty: int) -> None:
    threads = len(os.listdir(f"/proc/{daemon(mnt)}/task"))

    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(reader(mnt, "cat", f"proc/{chatty}/wait"))

    until(lambda: blocked(mnt) == 0)
    assert len(os.listdir(f"/proc/{daemon(mnt)}/task")) <= threads + 4
