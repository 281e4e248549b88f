"""A process of an agent's program is that agent at the mount, and nothing more."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fuse.programs import run, sandboxes
from tests.fuse.sandbox.boxes import Held, as_nobody
from tests.fuse.shell import end, inputs, pids, read, spawn, until

pytestmark = pytest.mark.fuse

WAYS = {
    "directly": "{}",
    "forked": "sh -c '{}'",
    "forked twice": "(sh -c '{}' &) ; sleep 0.3",
    "in a session of its own": "setsid sh -c '{}'",
    "of a daemon": "setsid sh -c '({} &) ; sleep 0.2'",
    "as another user": "su nobody -s /bin/sh -c '{}' || setpriv --reuid=65534 {} || {}",
    "in a namespace inside": "unshare -Upf {} || {}",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_process_of_an_agent_is_that_agent_s(box: Held, agent: int, way: str) -> None:
    said = run(box.mnt, WAYS[way].replace("{}", f"readlink {box.inside}/proc/self"), agent=agent)

    assert f"{agent}\n" in said


def test_a_process_that_hides_is_that_agent_s(box: Held, agent: int) -> None:
    script = (
        "import ctypes, os\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"  # PR_SET_DUMPABLE
        f"print(os.readlink('{box.inside}/proc/self'))\n"
    )

    assert run(box.mnt, script, "python", agent=agent) == f"{agent}\n[exit code 0]"


def test_a_thread_of_an_agent_s_process_is_that_agent_s(box: Held, agent: int) -> None:
    script = (
        "import os, threading\n"
        f"look = lambda: print(os.readlink('{box.inside}/proc/self'))\n"
        "thread = threading.Thread(target=look); thread.start(); thread.join()\n"
    )

    assert run(box.mnt, script, "python", agent=agent) == f"{agent}\n[exit code 0]"


def test_people_s_programs_and_people_are_no_agent(box: Held, agent: int) -> None:
    with box_running(box, agent):
        assert not (box.mnt / "proc/self").is_symlink()
        assert "No such file" in run(box.mnt, f"ls {box.inside}/proc/self/")


@contextmanager
def box_running(box: Held, agent: int) -> Iterator[None]:
    """A program of the agent that lives meanwhile."""
    fd = os.open(box.mnt / f"proc/{agent}/dispatch/exec", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b'{"command": "sleep 1000"}')
    until(lambda: sandboxes(box.mnt) == 1)
    try:
        yield
    finally:
        os.close(fd)
        until(lambda: sandboxes(box.mnt) == 0)


def test_another_agent_is_neither_ended_nor_told_nor_used(
    box: Held, agent: int, other: int
) -> None:
    there = f"{box.inside}/proc/{other}"
    lines = [
        f"echo kill > {there}/ctl", f"echo stop > {there}/ctl", f"echo hello > {there}/stdin",
        f"echo {{}} > {there}/dispatch/list_dir",
    ]  # fmt: skip

    script = "; ".join(f"({line}) && echo done" for line in lines)
    said = run(box.mnt, ["bash", "-c", script], agent=agent)

    assert "done" not in said and said.count("not permitted") == len(lines)
    assert "R (running)" in read(box.mnt, other, "status") and inputs(box.mnt, other) == []


def test_an_agent_does_not_end_itself_nor_talk_to_itself(box: Held, agent: int) -> None:
    there = f"{box.inside}/proc/{agent}"

    said = run(
        box.mnt, f"(echo kill > {there}/ctl) && echo done; (echo hi > {there}/stdin) && echo done",
        agent=agent,
    )  # fmt: skip

    assert "done" not in said and inputs(box.mnt, agent) == []


def test_a_spawn_in_a_sandbox_makes_a_child_of_the_agent(box: Held, agent: int) -> None:
    spec = '{"model": "offline/echo", "mode": "chat"}'

    said = run(
        box.mnt, f"exec 3<>{box.inside}/proc/spawn; echo '{spec}' >&3; read pid <&3; echo $pid",
        agent=agent,
    )  # fmt: skip

    child = int(said.splitlines()[0])
    assert f"PPid:\t{agent}\n" in read(box.mnt, child, "status")
    assert read(box.mnt, agent, "children") == f"{child}\n"


def test_a_spawn_in_a_sandbox_gets_no_tool_that_the_agent_has_not(box: Held) -> None:
    pid = spawn(box.mnt, mode="chat", tools=["exec", "list_dir"])
    spec = '{"model": "offline/echo", "tools": ["exec", "write_file"]}'
    before = pids(box.mnt)

    script = (
        f"echo '{spec}' > {box.inside}/proc/spawn; ls {box.inside}/dispatch; "
        f"echo '{{}}' > {box.inside}/dispatch/write_file"
    )
    said = run(box.mnt, ["bash", "-c", script], agent=pid)

    assert "not permitted" in said and "exec\nlist_dir\n" in said
    assert "write_file: No such file" in said
    assert pids(box.mnt) == before and not (box.mnt / "x").exists()
    end(box.mnt, pid)


def test_a_private_file_of_another_user_stays_private(box: Held) -> None:
    (box.mnt / f"private-{box.kind}").write_text("root's")
    (box.mnt / f"private-{box.kind}").chmod(0o600)
    command = f"cat {box.inside}/private-{box.kind} > /dev/null && echo read"

    as_nobody(box.mnt / "dispatch/exec", json.dumps({"command": command}))

    calls = sorted((box.mnt / "dispatch/.calls").iterdir(), key=lambda path: path.name)
    assert all("read\\n" not in path.read_text() for path in calls)


def test_what_linux_knows_of_another_zone_is_not_there_for_an_agent_s_program(
    box: Held, agent: int
) -> None:
    other = spawn(box.mnt, mode="chat", model="offline/echo", zone="another")
    home = f"{box.inside}/proc/{other}"
    known = [read(box.mnt, other, name) for name in ("status", "messages.jsonl", "limits/tokens")]

    looks = f"cat {home}/status {home}/messages.jsonl {home}/limits/tokens; ls {home}"
    said = run(box.mnt, f"{looks}; readlink {home}/cwd", agent=agent)

    end(box.mnt, other)
    assert len(known) == 3
    assert said.count("No such file") >= 4
    assert "State:" not in said and "stdout" not in said and "../.." not in said
