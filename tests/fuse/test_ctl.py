"""What is written to proc/<pid>/ctl and stdin, in every state of an agent."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.shell import (
    SHELLS,
    call,
    ctl,
    end,
    errno_of,
    errors,
    idle,
    inputs,
    ok,
    opened,
    pids,
    play,
    read,
    reply,
    sh,
    spawn,
    until,
    wait,
    wchan,
)

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def ended(mnt: Path) -> int:
    """An agent that has ended."""
    pid = spawn(mnt, task="hello")
    assert wait(mnt, pid) == f"{pid} 0 done"
    return pid


@pytest.fixture
def chatty(mnt: Path) -> Iterator[int]:
    """A chat agent that waits for a message, and goes when the test ends."""
    pid = idle(mnt)
    yield pid
    end(mnt, pid)


@pytest.fixture
def stuck(mnt: Path, tmp_path: Path) -> Iterator[int]:
    """A oneshot whose model never answers."""
    pid = play(mnt, tmp_path / "script.json", {"hang": True})
    until(lambda: wchan(mnt, pid) == "model")
    yield pid
    end(mnt, pid)


# -- ctl


def failed_ctl(mnt: Path, pid: int, line: str) -> str:
    return errno_of(ctl, mnt, pid, line)


def test_the_verbs_of_a_running_agent(mnt: Path, chatty: int) -> None:
    verbs = read(mnt, chatty, "ctl").split()

    assert {"term", "kill", "int", "stop", "cont", "steer", "reap"} <= set(verbs)
    assert failed_ctl(mnt, chatty, "cont") == "EBUSY"
    assert failed_ctl(mnt, chatty, "reap") == "EBUSY"
    assert failed_ctl(mnt, chatty, "int") == "EBUSY"
    assert failed_ctl(mnt, chatty, "hurt") == "EINVAL"
    assert failed_ctl(mnt, chatty, "steer") == "EINVAL"
    assert "R (running)" in read(mnt, chatty, "status")


@pytest.mark.parametrize("shell", SHELLS)
def test_an_unknown_verb_fails_the_echo_and_names_the_verbs(
    mnt: Path, chatty: int, shell: str
) -> None:
    done = sh(mnt, f"echo trem > proc/{chatty}/ctl", shell=shell)

    assert done.returncode != 0
    assert errors(mnt)[-1]["path"] == f"/proc/{chatty}/ctl"
    assert "term" in errors(mnt)[-1]["message"]


def test_stop_and_cont(mnt: Path, chatty: int) -> None:
    ctl(mnt, chatty, "stop")
    paused = read(mnt, chatty, "status")
    again = failed_ctl(mnt, chatty, "stop")
    (mnt / f"proc/{chatty}/stdin").write_text("hello")
    time.sleep(0.2)
    quiet = read(mnt, chatty, "stdout")
    ctl(mnt, chatty, "cont")

    until(lambda: read(mnt, chatty, "stdout") == "hello\n")
    assert "T (paused)" in paused
    assert again == "EBUSY"
    assert quiet == ""
    assert failed_ctl(mnt, chatty, "cont") == "EBUSY"


def test_a_paused_agent_can_be_ended(mnt: Path, chatty: int) -> None:
    ctl(mnt, chatty, "stop")

    ctl(mnt, chatty, "term I changed my mind")

    assert wait(mnt, chatty) == f"{chatty} -15 I changed my mind"


@pytest.mark.parametrize("verb", ["term", "kill", "int", "stop", "cont", "steer hello"])
def test_an_ended_agent_takes_no_verb_but_reap(mnt: Path, ended: int, verb: str) -> None:
    assert failed_ctl(mnt, ended, verb) == "EBUSY"


def test_kill_is_minus_9_and_term_minus_15_with_a_reason(mnt: Path) -> None:
    first, second, third = idle(mnt), idle(mnt), idle(mnt)

    ctl(mnt, first, "kill")
    ctl(mnt, second, "term")
    ctl(mnt, third, "kill too slow")

    assert wait(mnt, first) == f"{first} -9 killed"
    assert wait(mnt, second) == f"{second} -15 terminated"
    assert wait(mnt, third) == f"{third} -9 too slow"
    assert "ExitCode:\t-9\nReason:\ttoo slow\n" in read(mnt, third, "status")


def test_int_ends_a_oneshot_with_minus_2(mnt: Path, stuck: int) -> None:
    ctl(mnt, stuck, "int")

    assert wait(mnt, stuck).split()[1] == "-2"


def test_int_drops_the_turn_of_a_chat_agent_which_then_waits(mnt: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(
        json.dumps({"conversations": [
            {"match_last": "hang", "turns": [{"hang": True}]},
            {"match_last": "talk", "turns": [{"content": "still here"}]},
        ]})
    )  # fmt: skip
    pid = spawn(mnt, mode="chat", model=f"offline/script:{tmp_path / 's.json'}", task="hang")
    until(lambda: wchan(mnt, pid) == "model")

    ctl(mnt, pid, "int")
    until(lambda: wchan(mnt, pid) == "message")
    (mnt / f"proc/{pid}/stdin").write_text("talk")

    until(lambda: read(mnt, pid, "stdout") == "still here\n")
    end(mnt, pid)


def test_steer_reaches_a_oneshot_at_its_next_turn(mnt: Path, tmp_path: Path) -> None:
    pid = play(
        mnt, tmp_path / "s.json", {"delay_s": 0.4, **call("list_dir", path="/bin")},
        {"content": "done"},
    )  # fmt: skip
    until(lambda: wchan(mnt, pid) == "model")

    ctl(mnt, pid, "steer look in /etc instead")
    wait(mnt, pid)

    users = [json.loads(line) for line in read(mnt, pid, "messages.jsonl").splitlines()]
    assert [m["content"] for m in users if m["role"] == "user"] == [
        "go", "look in /etc instead",
    ]  # fmt: skip


def test_reap_removes_an_ended_agent(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    wait(mnt, pid)

    ctl(mnt, pid, "reap")

    assert pid not in pids(mnt)
    assert errno_of(os.listdir, mnt / f"proc/{pid}") == "ENOENT"


def test_an_open_file_of_a_reaped_agent_can_still_be_read(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    wait(mnt, pid)

    with opened(mnt / f"proc/{pid}/status", os.O_RDONLY) as fd:
        ctl(mnt, pid, "reap")
        said = reply(fd)

    assert said.startswith(b"Name:")


def test_an_agent_that_is_gone_is_esrch_to_an_open_ctl(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    wait(mnt, pid)

    with opened(mnt / f"proc/{pid}/ctl", os.O_WRONLY) as fd:
        os.write(fd, b"reap\n")
        assert errno_of(os.write, fd, b"reap\n") == "ESRCH"


# -- stdin


def test_two_writes_of_one_handle_are_two_messages(mnt: Path, chatty: int) -> None:
    ok(sh(mnt, f"exec 3>proc/{chatty}/stdin; echo one >&3; echo two >&3"))

    until(lambda: read(mnt, chatty, "stdout").count("\n") == 2 or len(inputs(mnt, chatty)) == 2)
    assert inputs(mnt, chatty) == ["one", "two"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_message_has_all_lines_up_to_the_flush(mnt: Path, chatty: int, shell: str) -> None:
    ok(sh(mnt, f"printf 'one\\ntwo\\n' | cat > proc/{chatty}/stdin", shell=shell))

    assert inputs(mnt, chatty) == ["one\ntwo"]


def test_fsync_ends_a_message_too(mnt: Path, chatty: int) -> None:
    with opened(mnt / f"proc/{chatty}/stdin", os.O_WRONLY) as fd:
        os.write(fd, b"one ")
        os.write(fd, b"message")
        os.fsync(fd)
        os.write(fd, b"another")

    assert inputs(mnt, chatty) == ["one message", "another"]


def test_opening_and_closing_sends_nothing(mnt: Path, chatty: int) -> None:
    ok(sh(mnt, f": > proc/{chatty}/stdin; true >> proc/{chatty}/stdin"))

    assert inputs(mnt, chatty) == []


def test_a_chat_agent_answers_each_message(mnt: Path, chatty: int) -> None:
    for number in range(3):
        (mnt / f"proc/{chatty}/stdin").write_text(f"number {number}")
        until(lambda: read(mnt, chatty, "stdout").count("\n") > number)  # noqa: B023

    assert read(mnt, chatty, "stdout") == "number 0\nnumber 1\nnumber 2\n"
    assert read(mnt, chatty, "exit_code") == ""


def test_a_message_to_an_ended_agent_is_epipe(mnt: Path, ended: int) -> None:
    done = sh(mnt, f"echo hello | cat > proc/{ended}/stdin")

    with opened(mnt / f"proc/{ended}/stdin", os.O_WRONLY) as fd:
        failed = errno_of(os.write, fd, b"hello") or errno_of(os.fsync, fd)

    assert failed == "EPIPE"
    assert done.returncode != 0 and "Broken pipe" in done.stderr


def test_a_oneshot_reads_a_message_at_its_next_turn(mnt: Path, tmp_path: Path) -> None:
    pid = play(
        mnt, tmp_path / "s.json", {"delay_s": 0.4, **call("list_dir", path="/bin")},
        {"content": "done"},
    )  # fmt: skip
    until(lambda: wchan(mnt, pid) == "model")

    (mnt / f"proc/{pid}/stdin").write_text("and /etc")
    wait(mnt, pid)

    assert inputs(mnt, pid)[-1] == "and /etc"
    assert '"and /etc"' in read(mnt, pid, "messages.jsonl")


def test_a_message_over_4_mib_is_efbig(mnt: Path, chatty: int) -> None:
    with opened(mnt / f"proc/{chatty}/stdin", os.O_WRONLY) as fd:
        piece = b"x" * (1 << 16)
        with pytest.raises(OSError, match="File too large"):
            for _ in range(65):
                os.write(fd, piece)

    assert inputs(mnt, chatty) == []


def test_the_closing_turn_is_exit_code_3(mnt: Path, tmp_path: Path) -> None:
    turn = call("list_dir", path="/bin")

    pid = play(mnt, tmp_path / "s.json", turn, {"content": "so far"}, max_turns=1)

    assert wait(mnt, pid) == f"{pid} 3 max_turns (1) reached"
    assert read(mnt, pid, "result") == "so far\n"
