"""The client commands on a live mount, as a person runs them."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import NEXUSFS, Mounts

pytestmark = pytest.mark.fuse

PATIENCE_S = 20.0
CHAT = '{"model": "offline/echo", "mode": "chat", "name": "idle"}'


def nexusfs(mnt: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nexusfs", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "NEXUSFS_MNT": str(mnt)},
    )


def start(mnt: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nexusfs", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEXUSFS_MNT": str(mnt)},
    )


def pid_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until_listed(mnt: Path, name: str) -> str:
    """The pid of the first process of that name, waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for line in nexusfs(mnt, "ps", "--live").stdout.splitlines():
            cells = line.split("\t")
            if cells[3] == name:
                return cells[0]
    raise AssertionError(f"no process {name}")


@pytest.fixture
def idle(mnt: Path) -> Iterator[str]:
    """The pid of a chat agent that waits for a message."""
    pid = pid_of(nexusfs(mnt, "spawn", "-", stdin=CHAT))
    yield pid
    nexusfs(mnt, "kill", "-9", pid)


def test_spawn_prints_a_pid_and_wait_how_it_ended(mnt: Path) -> None:
    pid = pid_of(nexusfs(mnt, "spawn", "--model", "offline/echo", "hello"))

    done = nexusfs(mnt, "wait", pid)

    assert (done.returncode, done.stdout) == (0, f"{pid} 0 done\n")


def test_spawn_takes_json_from_standard_input_and_w_waits(mnt: Path) -> None:
    done = nexusfs(mnt, "spawn", "-w", "-", stdin='{"model":"offline/echo","task":"hello"}')

    assert done.returncode == 0, done.stderr
    assert (mnt / "proc" / done.stdout.strip() / "exit_code").read_text().strip() == "0"


@pytest.mark.parametrize("task", [[], ["another", "task"]])
def test_spawn_takes_a_markdown_file_with_and_without_a_task(
    mnt: Path, tmp_path: Path, task: list[str]
) -> None:
    file = tmp_path / "agent.md"
    file.write_text("---\nname: scribe\nmodel: offline/echo\ntask: one task\n---\nYou write.\n")

    pid = pid_of(nexusfs(mnt, "spawn", str(file), *task))

    spec = json.loads((mnt / "proc" / pid / "spec").read_text())
    assert spec["name"] == "scribe"
    assert spec["task"] == (" ".join(task) or "one task")
    assert spec["instructions"].strip() == "You write."


def test_spawn_starts_an_installed_agent_by_name(mnt: Path) -> None:
    agent = mnt / "bin/scribe.md"
    agent.write_text("---\nname: scribe\nmodel: offline/echo\n---\nYou write.\n")
    agent.chmod(0o755)

    pid = pid_of(nexusfs(mnt, "spawn", "scribe", "a", "task"))

    assert "Name:\tscribe\n" in (mnt / "proc" / pid / "status").read_text()


def test_an_agent_that_is_not_executable_is_126_and_an_unknown_one_127(mnt: Path) -> None:
    agent = mnt / "bin/draft.md"
    agent.write_text("---\nname: draft\nmodel: offline/echo\n---\nYou write.\n")
    agent.chmod(0o644)

    draft = nexusfs(mnt, "run", "draft", "go")
    unknown = nexusfs(mnt, "run", "no-such-agent", "go")

    assert (draft.returncode, unknown.returncode) == (126, 127)
    assert draft.stderr.startswith("nexusfs: ") and draft.stderr.count("\n") == 1
    assert unknown.stderr.startswith("nexusfs: ") and unknown.stderr.count("\n") == 1


def test_a_wrong_key_shows_the_sentence_of_the_failed_handle(mnt: Path) -> None:
    done = nexusfs(mnt, "spawn", "-", stdin='{"modle": "offline/echo"}')

    assert done.returncode == 125
    assert done.stderr.startswith("nexusfs: ")
    assert "'modle'" in done.stderr and done.stderr.count("\n") == 1


def test_run_shows_what_the_agent_says_and_exits_as_it_does(mnt: Path) -> None:
    done = nexusfs(mnt, "run", "--model", "offline/echo", "hello there")

    assert done.returncode == 0, done.stderr
    assert "hello there" in done.stdout


def test_run_shows_tool_calls_on_stderr_and_quiet_does_not(mnt: Path) -> None:
    (mnt / "note.txt").write_text("remember the milk\n")
    words = ("--model", "offline/demo", "read /note.txt")

    loud, quiet = nexusfs(mnt, "run", *words), nexusfs(mnt, "run", "-q", *words)

    assert "remember the milk" in loud.stdout
    assert "> read_file" in loud.stderr
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")


def test_ctrl_c_in_run_ends_the_agent(mnt: Path) -> None:
    running = start(mnt, "run", "--set", "mode=chat", "--name", "talker", "--model", "offline/echo")
    pid = until_listed(mnt, "talker")

    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=PATIENCE_S)

    assert running.returncode == 128 + signal.SIGTERM
    assert f"agent {pid} ended with -15" in errors
    assert "Traceback" not in errors


def test_ctrl_c_in_wait_leaves_the_agent_alone(mnt: Path, idle: str) -> None:
    waiting = start(mnt, "wait", idle)
    time.sleep(1)

    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate(timeout=PATIENCE_S)

    assert (waiting.returncode, errors.strip()) == (130, "")
    assert (mnt / "proc" / idle / "exit_code").read_text() == ""


def test_kill_ends_with_term_and_its_reason(mnt: Path, idle: str) -> None:
    assert nexusfs(mnt, "kill", idle, "--reason", "wrong branch").returncode == 0

    done = nexusfs(mnt, "wait", idle)

    assert (done.returncode, done.stdout) == (143, f"{idle} -15 wrong branch\n")


@pytest.mark.parametrize("words", [["-9"], ["-s", "KILL"], ["-s", "SIGKILL"], ["-s", "9"]])
def test_kill_knows_a_verb_by_all_its_names(mnt: Path, idle: str, words: list[str]) -> None:
    assert nexusfs(mnt, "kill", *words, idle).returncode == 0

    assert nexusfs(mnt, "wait", idle).returncode == 137


def test_kill_sends_what_follows_a_verb_too(mnt: Path, idle: str) -> None:
    assert nexusfs(mnt, "kill", "-s", "steer be brief", idle).returncode == 0

    assert '"text":"be brief"' in (mnt / "proc" / idle / "events").read_text()


def test_arguments_that_do_not_end_are_one_line(mnt: Path) -> None:
    done = nexusfs(mnt, "call", "grep", '{"pattern": "x"')

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "close every {" in done.stderr


def test_kill_of_nobody_and_an_unknown_verb_are_one_line_each(mnt: Path, idle: str) -> None:
    nobody = nexusfs(mnt, "kill", "99999")
    unknown = nexusfs(mnt, "kill", "-s", "hurt", idle)

    assert (nobody.returncode, nobody.stderr) == (1, "nexusfs: no process 99999\n")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("nexusfs: ") and unknown.stderr.count("\n") == 1


def test_ps_and_tree_show_a_process_below_the_kernel(mnt: Path, idle: str) -> None:
    listed, drawn = nexusfs(mnt, "ps").stdout, nexusfs(mnt, "tree").stdout

    assert [line for line in listed.splitlines() if line.startswith(f"{idle}\t1\t")]
    assert [line for line in drawn.splitlines() if f"─ {idle} idle" in line]


def test_ps_draws_a_table_on_a_terminal(mnt: Path, idle: str) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "nexusfs", "ps", "--mnt", str(mnt)], stdout=theirs
    ) as shown:
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 4096):
                text += piece
        except OSError:  # EIO: the other end of a terminal was closed
            pass
    os.close(ours)

    assert shown.returncode == 0
    assert b"\t" not in text and b"idle" in text


def test_logs_prints_what_was_said_and_follows_to_the_end(mnt: Path) -> None:
    pid = pid_of(nexusfs(mnt, "spawn", "-w", "--model", "offline/echo", "hello there"))

    plain, followed = nexusfs(mnt, "logs", pid), nexusfs(mnt, "logs", "-f", pid)
    events = nexusfs(mnt, "logs", "--events", pid)

    assert "hello there" in plain.stdout
    assert followed.stdout == plain.stdout
    assert all("type" in json.loads(line) for line in events.stdout.splitlines())


def test_call_prints_the_output_or_the_whole_reply(mnt: Path) -> None:
    (mnt / "note.txt").write_text("remember the milk\n")

    words = nexusfs(mnt, "call", "read_file", "path=/note.txt")
    whole = nexusfs(mnt, "call", "--json", "read_file", '{"path": "/note.txt"}')
    piped = nexusfs(mnt, "call", "read_file", "-", stdin='{"path": "/note.txt"}')

    assert "remember the milk" in words.stdout
    assert json.loads(whole.stdout)["success"] is True
    assert piped.stdout == words.stdout


def test_a_call_that_fails_says_why_and_exits_1(mnt: Path) -> None:
    missing = nexusfs(mnt, "call", "read_file", "path=/no-such-file")
    misfit = nexusfs(mnt, "call", "read_file", '{"path": 7}')
    unknown = nexusfs(mnt, "call", "reed_file", "{}")

    for done in (missing, misfit, unknown):
        assert done.returncode == 1
        assert done.stderr.startswith("nexusfs: ") and done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert "no-such-file" in missing.stderr


def test_commands_find_the_mount_by_the_current_directory(mnt: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NEXUSFS_MNT"}

    done = subprocess.run(
        [sys.executable, "-m", "nexusfs", "call"],
        cwd=mnt / "bin", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "read_file" in done.stdout.splitlines(), done.stderr


def test_completion_offers_live_pids_and_tools(mnt: Path, idle: str) -> None:
    def offered(words: str) -> str:
        environment = {
            **os.environ,
            "NEXUSFS_MNT": str(mnt),
            "_NEXUSFS_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        command = [Path(sys.executable).parent / "nexusfs"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert f"plain,{idle}\n" in offered(f"nexusfs kill {idle}")
    assert "plain,read_file\n" in offered("nexusfs call read")


def test_a_command_in_a_dead_mount_says_so_and_asks_no_other(mounts: Mounts, mnt: Path) -> None:
    other = mounts.mount("dead")

    def ran(script: str) -> "subprocess.CompletedProcess[str]":
        (daemon,) = re.findall(r"pid (\d+)", (mounts.store("dead") / "lock").read_text())
        words = ["sh", "-c", script, "sh", str(other), daemon, NEXUSFS]
        env = mounts.environment()
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False)

    inside = ran('cd "$1"; kill -9 $2; sleep 0.3; "$3" ps')
    mounts.mount("dead")
    named = ran('exec 3<"$1/README"; kill -9 $2; sleep 0.3; "$3" ps --mnt "$1"')

    assert (mnt / "proc/spawn").exists()
    for done in (inside, named):
        assert done.returncode != 0 and f"{other} is dead" in done.stderr, done
