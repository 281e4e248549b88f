"""Programs of exec and python on a real mount, in real sandboxes."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts, reachable_mounts
from tests.fuse.programs import LANDLOCK, NOTHING_ELSE, gone, marked, run, sandboxes, tried, waiting
from tests.fuse.shell import (
    call,
    ctl,
    end,
    events,
    held,
    idle,
    ok,
    play,
    read,
    sh,
    until,
    wait,
    wchan,
)

pytestmark = pytest.mark.fuse

NOBODY = 65534
STUBBORN = (
    "import os, signal, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        subprocess.Popen(['sleep', '{mark}'], start_new_session=True)\n"
    "        signal.pause()\n"
    "    os._exit(0)\n"
    "{then}\n"
)
"""Ignores SIGTERM, forks twice, makes sessions, and leaves a `sleep MARK`."""


@pytest.fixture(scope="module")
def mounts() -> Iterator[Mounts]:
    with reachable_mounts() as made:
        yield made


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    limits = {"NEXUSFS_SANDBOX__OUTPUT_MB": "2", "NEXUSFS_SANDBOX__REPLY_CHARS": "200"}
    return mounts.mount("a", "--allow-other", env=limits)


@pytest.fixture
def agent(mnt: Path) -> Iterator[int]:
    """A chat agent that waits for a message, and goes when the test ends."""
    pid = idle(mnt)
    yield pid
    end(mnt, pid)


# What comes of a program


def test_a_command_line_runs_and_its_exit_code_is_in_the_reply(mnt: Path) -> None:
    assert run(mnt, "echo out; echo err >&2; exit 3") == "out\n[stderr]\nerr\n[exit code 3]"


def test_a_list_of_words_is_run_without_a_shell(mnt: Path) -> None:
    assert run(mnt, ["printf", "%s|", "$HOME", "a b"]) == "$HOME|a b|\n[exit code 0]"


def test_a_program_that_is_not_there_is_exit_code_127(mnt: Path) -> None:
    said = run(mnt, ["no-such-program"])

    assert "no-such-program: not found" in said and said.endswith("[exit code 127]")


def test_a_signal_is_named(mnt: Path) -> None:
    assert run(mnt, "kill -SEGV $$") == "[exit code 139, ended by SIGSEGV]"


def test_a_program_reads_what_it_is_given(mnt: Path) -> None:
    text = "line\n" * 100_000

    assert run(mnt, "wc -c", stdin=text) == f"{len(text)}\n[exit code 0]"


def test_a_python_script_runs(mnt: Path) -> None:
    assert run(mnt, "import sys; print(6 * 7)", "python") == "42\n[exit code 0]"


def test_what_a_program_writes_to_the_mount_is_there(mnt: Path) -> None:
    (mnt / "work").mkdir()

    said = run(mnt, "mkdir d && echo hi > d/f && pwd", cwd="/work")

    assert said == "/work\n[exit code 0]"
    assert (mnt / "work/d/f").read_text() == "hi\n"


def test_a_long_output_is_cut_and_all_of_it_is_in_a_file(mnt: Path) -> None:
    said = run(mnt, "seq 20000; echo short >&2")

    assert said.startswith("1\n2\n3\n") and said.endswith("20000\n[stderr]\nshort\n[exit code 0]")
    where = re.search(r"of 108,894; all of it is in /nexus(/tmp/\S+) …", said)
    assert where
    whole = mnt / where[1].lstrip("/")
    assert whole.read_text() == "".join(f"{n}\n" for n in range(1, 20001))
    assert whole.stat().st_mode & 0o777 == 0o600


def test_an_agent_s_program_is_heard_while_it_runs(mnt: Path, tmp_path: Path) -> None:
    pid = play(
        mnt, tmp_path / "turns", call("exec", command="echo early; sleep 1000"), tools=["exec"]
    )
    until(lambda: wchan(mnt, pid) == "tool:exec")

    with held(mnt / f"proc/{pid}/events_pipe") as pipe:
        seen = b""
        while b'"tool_output"' not in seen:
            seen += os.read(pipe, 1 << 16)

    end(mnt, pid)
    heard = json.loads(seen.splitlines()[-1])
    assert (heard["stream"], heard["text"]) == ("stdout", "early\n")
    assert all(event["type"] != "tool_output" for event in events(mnt, pid))


def test_status_says_what_holds_programs(mnt: Path, agent: int) -> None:
    assert "Sandbox:\tbwrap\n" in read(mnt, agent, "status")
    assert (mnt / "sys/services/sandbox").read_text() == "running\n"


def test_an_installed_agent_s_home_is_home(mnt: Path) -> None:
    (mnt / "home/talk").mkdir()
    pid = idle(mnt, name="talk")

    said = run(mnt, "cd; pwd", agent=pid)

    end(mnt, pid)
    assert said == "/home/talk\n[exit code 0]"


def test_directories_of_any_name_are_at_their_place(mounts: Mounts) -> None:
    mnt = mounts.mount("names")
    names = [b"with space", b"new\nline", b"\xff\xfe", b"--ro-bind", "é".encode(), b"back\\slash"]
    for name in names:
        os.mkdir(os.fsencode(mnt) + b"/" + name)

    run(mnt, 'for d in /*; do [ -d /nexus/"${d#/}" ] && touch "$d/here"; done')

    for name in names:
        assert os.path.exists(os.fsencode(mnt) + b"/" + name + b"/here"), name
    mounts.umount(mnt)


def test_another_user_s_program_is_that_user_s(mnt: Path) -> None:
    (mnt / "open").mkdir()
    (mnt / "open").chmod(0o777)
    (mnt / "secret").write_text("x")
    (mnt / "secret").chmod(0o600)
    command = "id -u; touch /open/mine; cat /nexus/secret; cat /proc/self/status | grep Groups"
    text = json.dumps({"command": command})

    said = ok(sh(mnt, f"exec 3<>dispatch/exec; echo '{text}' >&3; cat <&3", user=NOBODY))

    output = json.loads(said)["output"]
    assert output.startswith(f"{NOBODY}\n") and "secret: Permission denied" in output
    assert (mnt / "open/mine").stat().st_uid == NOBODY


# How it ends


def test_a_program_over_its_time_is_etimedout_and_what_it_said_is_kept(mnt: Path) -> None:
    began = time.monotonic()

    failed, reply = tried(mnt, "echo so far; sleep 1000", timeout_s=0.2)

    assert failed == "ETIMEDOUT" and time.monotonic() - began < 5
    assert "it took over 0.2 s" in reply["error"] and reply["error"].endswith("so far")


def test_nothing_that_a_program_started_outlives_its_call(mnt: Path) -> None:
    run(mnt, STUBBORN.format(mark="7001", then=""), "python")

    assert marked("7001") == []
    assert sandboxes(mnt) == 0


def test_a_signal_to_the_writer_ends_the_program(mnt: Path) -> None:
    with waiting(mnt, "trap '' TERM INT; sleep 7002; sleep 7002") as writer:
        until(lambda: marked("7002"))
        os.killpg(writer.pid, signal.SIGINT)
        began = time.monotonic()

        writer.wait(5)

    assert time.monotonic() - began < 2 and gone("7002", 2)


def test_the_end_of_an_agent_ends_its_programs(mnt: Path, tmp_path: Path) -> None:
    turns = (call("exec", command="setsid sleep 7003 & sleep 7003"),)
    pid = play(mnt, tmp_path / "turns", *turns, tools=["exec"])
    until(lambda: len(marked("7003")) > 1)

    ctl(mnt, pid, "kill")

    assert gone("7003", 2)
    assert wait(mnt, pid) == f"{pid} -9 killed"


def test_the_end_of_an_agent_ends_what_others_run_as_it(mnt: Path, agent: int) -> None:
    with waiting(mnt, "sleep 7004", agent):
        until(lambda: marked("7004"))

        ctl(mnt, agent, "kill")

        assert gone("7004", 2)


@pytest.mark.parametrize("env", [{}, LANDLOCK], ids=["bwrap", "landlock"])
def test_killing_the_daemon_ends_its_programs(mounts: Mounts, env: dict[str, str]) -> None:
    mnt = mounts.mount("killed", env=env)
    daemon = json.loads((mnt / "sys/mounts").read_text())["pid"]
    with waiting(mnt, "trap '' TERM; setsid sleep 7005 & sleep 7005"):
        until(lambda: len(marked("7005")) > 1)

        os.kill(daemon, signal.SIGKILL)

        assert gone("7005", 5)


def test_umount_ends_programs_and_returns(mounts: Mounts, tmp_path: Path) -> None:
    mnt = mounts.mount("gone", env={"NEXUSFS_STOP_GRACE_S": "0.1"})
    play(mnt, tmp_path / "turns", call("exec", command="sleep 7006"), tools=["exec"])
    until(lambda: marked("7006"))
    began = time.monotonic()

    mounts.umount(mnt)

    assert time.monotonic() - began < 10 and gone("7006", 2)


def test_a_reader_that_waits_for_the_mount_ends_with_its_program(mnt: Path, agent: int) -> None:
    began = time.monotonic()

    failed, _ = tried(mnt, f"cat /nexus/proc/{agent}/wait & cat /nexus/proc/1/status; wait",
                      timeout_s=0.5)  # fmt: skip

    assert failed == "ETIMEDOUT" and time.monotonic() - began < 3
    until(lambda: sandboxes(mnt) == 0)


def test_a_program_of_a_program_ends_with_it(mnt: Path) -> None:
    inner = json.dumps({"command": "sleep 7007"})

    failed, _ = tried(mnt, f"echo '{inner}' > /nexus/dispatch/exec", timeout_s=1)

    assert failed == "ETIMEDOUT" and gone("7007", 3)


def test_unheld_programs_run_where_the_configuration_says_so(mounts: Mounts) -> None:
    unheld = {**LANDLOCK, **NOTHING_ELSE, "NEXUSFS_SANDBOX__NONE": "true"}
    mnt = mounts.mount("unheld", env=unheld)
    pid = idle(mnt)

    said = run(mnt, f"pwd; cat {mnt}/README | wc -l; readlink {mnt}/proc/self; echo $NEXUSFS_MNT",
               agent=pid)  # fmt: skip
    run(mnt, STUBBORN.format(mark="7008", then=""), "python", agent=pid)

    words = said.split()
    assert (words[0], words[2], words[3]) == (str(mnt), str(pid), str(mnt))
    assert marked("7008") == [] and "Sandbox:\tnone\n" in read(mnt, pid, "status")
    assert "unheld" in (mnt / "sys/services/sandbox").read_text()
    end(mnt, pid)
    mounts.umount(mnt)


def test_an_agent_with_paths_of_its_own_runs_nothing_unheld(mounts: Mounts) -> None:
    unheld = {**LANDLOCK, **NOTHING_ELSE, "NEXUSFS_SANDBOX__NONE": "true"}
    mnt = mounts.mount("unheld", env=unheld)
    pid = idle(mnt, paths=[{"path": "/home"}])

    failed, reply = tried(mnt, "true", agent=pid)

    assert failed == "EOPNOTSUPP" and "the paths of its agent" in reply["error"]
    end(mnt, pid)
    mounts.umount(mnt)


def test_with_the_network_granted_a_program_reaches_the_host(mounts: Mounts) -> None:
    mnt = mounts.mount("network", env={"NEXUSFS_SANDBOX__NETWORK": "true"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; print(socket.create_connection(('127.0.0.1', {port})).fileno())"

        assert run(mnt, script, "python") == "3\n[exit code 0]"
    mounts.umount(mnt)
