"""Agents that are ended, stopped, saved and cut while something of theirs is under way."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import (
    PATIENCE_S,
    blocked,
    call,
    children_of,
    ctl,
    daemon,
    errno_of,
    events,
    idle,
    ok,
    opened,
    play,
    read,
    request,
    running,
    running_tools,
    sh,
    spawn,
    until,
    wait,
    wchan,
)
from tests.fuse.test_life import WITH_SLOW_TOOLS, gone

pytestmark = pytest.mark.fuse

FEW_SLOTS = {**WITH_SLOW_TOOLS, "NEXUSFS_SLOTS_PER_OWNER": "2"}


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    return mounts.mount("life", env=WITH_SLOW_TOOLS)


@pytest.fixture(scope="module")
def tight(mounts: Mounts) -> Path:
    """A mount with two model slots for each owner."""
    return mounts.mount("tight", env=FEW_SLOTS)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mounts]:
    made = Mounts(tmp_path)
    yield made
    made.close()


def lingering(mnt: Path, tmp_path: Path, seconds: float, **spec: object) -> int:
    """An agent in the middle of a tool that takes so long."""
    turns = (call("linger", seconds=seconds, note="/note"), {"content": "done"})
    pid = play(mnt, tmp_path / f"linger-{seconds}", *turns, **spec)
    until(lambda: wchan(mnt, pid) == "tool:linger")
    return pid


def family(mnt: Path, tmp_path: Path) -> list[int]:
    """A parent in a tool, with a child in a stream that has a child in a stream of its own."""
    talk = {"turns": [{"content": "word " * 10_000, "token_delay_s": 0.02}]}
    (tmp_path / "talk").write_text(json.dumps(talk))
    spec = {"model": f"offline/script:{tmp_path}/talk", "task": "go", "name": "talker"}
    linger = call("linger", seconds=60, note="/note")
    begin = call("write_file", path="/proc/spawn", content=json.dumps(spec))
    middle = [begin, linger]
    (tmp_path / "middle").write_text(json.dumps(middle))
    child = {"model": f"offline/script:{tmp_path}/middle", "task": "go", "name": "middle"}
    top = play(
        mnt, tmp_path / "top", call("write_file", path="/proc/spawn", content=json.dumps(child)),
        linger,
    )  # fmt: skip
    found = [top]
    for _ in range(2):
        until(lambda: read(mnt, found[-1], "children").split())
        found.append(int(read(mnt, found[-1], "children").split()[0]))
    until(lambda: running_tools(mnt) == 2 and len(read(mnt, found[-1], "events")) > 0)
    until(lambda: wchan(mnt, found[-1]) == "model")
    return found


# -- kill


@pytest.mark.parametrize("verb", ["kill", "term enough"])
def test_a_whole_tree_ends_in_the_middle_of_streams_and_tools(
    mnt: Path, tmp_path: Path, verb: str
) -> None:
    top, middle, bottom = family(mnt, tmp_path)

    ctl(mnt, top, verb)

    assert [read(mnt, pid, "exit_code") for pid in (middle, bottom)] == ["-9\n"] * 2
    assert running_tools(mnt) == 0, "a tool still runs when the write has returned"
    assert (mnt / "note").read_text() == "cancelled\n"
    ended = [events(mnt, pid)[-1]["time"] for pid in (bottom, middle, top)]
    assert ended == sorted(ended), "the deepest did not end first"
    assert children_of(daemon(mnt)) == []


def test_a_tool_that_somebody_runs_as_an_agent_ends_with_it(mnt: Path) -> None:
    pid = idle(mnt)
    note = {"seconds": 60, "note": "/borrowed"}
    seen: list[tuple[str, str]] = []
    thread = threading.Thread(
        target=lambda: seen.append(request(mnt / f"proc/{pid}/dispatch/linger", note))
    )
    thread.start()
    until(lambda: running_tools(mnt) == 1)

    ctl(mnt, pid, "kill")
    thread.join(PATIENCE_S)

    assert seen[0][0] == "ESRCH" and "its tools are gone" in seen[0][1]
    assert (mnt / "borrowed").read_text() == "cancelled\n"


def test_the_history_of_an_agent_killed_in_a_tool_is_whole(mnt: Path, tmp_path: Path) -> None:
    pid = lingering(mnt, tmp_path, 60)

    ctl(mnt, pid, "kill")

    last = json.loads(read(mnt, pid, "messages.jsonl").splitlines()[-1])
    assert (last["role"], last["name"]) == ("tool", "linger")
    assert "interrupted" in last["content"]


def test_a_detached_child_lives_on_with_the_kernel_as_its_parent(mnt: Path, tmp_path: Path) -> None:
    child = json.dumps({"model": "offline/echo", "mode": "chat", "life": "detached"})
    pid = play(
        mnt, tmp_path / "s", call("write_file", path="/proc/spawn", content=child), {"hang": True}
    )
    until(lambda: read(mnt, pid, "children").split())
    (kept,) = read(mnt, pid, "children").split()

    ctl(mnt, pid, "kill")

    assert "PPid:\t1\n" in read(mnt, int(kept), "status")
    assert "R (running)" in read(mnt, int(kept), "status")


# -- slots


def full(mnt: Path, tmp_path: Path) -> tuple[int, int]:
    """Two agents that hold the two slots for ever."""
    pids = [play(mnt, tmp_path / "hang", {"hang": True}) for _ in range(2)]
    until(lambda: [wchan(mnt, pid) for pid in pids] == ["model"] * 2)
    return pids[0], pids[1]


def test_who_gets_no_slot_waits_for_one_and_goes_on_when_there_is_one(
    tight: Path, tmp_path: Path
) -> None:
    first, second = full(tight, tmp_path)

    third = spawn(tight, task="hello")
    until(lambda: wchan(tight, third) == "slot")
    ctl(tight, first, "kill")

    assert wait(tight, third) == f"{third} 0 done"
    ctl(tight, second, "kill")


def test_a_paused_agent_holds_no_slot_and_takes_none(tight: Path, tmp_path: Path) -> None:
    first, second = full(tight, tmp_path)
    third = spawn(tight, task="hello")
    until(lambda: wchan(tight, third) == "slot")
    ctl(tight, third, "stop")
    ctl(tight, first, "kill")

    fourth = spawn(tight, task="more")

    assert wait(tight, fourth) == f"{fourth} 0 done"
    assert "T (paused)" in read(tight, third, "status")
    ctl(tight, third, "cont")
    assert wait(tight, third) == f"{third} 0 done"
    ctl(tight, second, "kill")


def test_an_agent_in_a_tool_holds_no_slot(tight: Path, tmp_path: Path) -> None:
    pids = [lingering(tight, tmp_path, 60) for _ in range(3)]

    other = spawn(tight, task="hello")

    assert wait(tight, other) == f"{other} 0 done"
    for pid in pids:
        ctl(tight, pid, "kill")


# -- stop, nice, checkpoint


def test_stop_in_a_tool_lets_it_end_and_nothing_more(mnt: Path, tmp_path: Path) -> None:
    pid = lingering(mnt, tmp_path, 0.5)

    ctl(mnt, pid, "stop")
    until(lambda: any(event["type"] == "tool_result" for event in events(mnt, pid)))
    time.sleep(0.2)

    calls = [event for event in events(mnt, pid) if event["type"] == "model_call"]
    assert (len(calls), wchan(mnt, pid)) == (1, "0")
    ctl(mnt, pid, "cont")
    assert wait(mnt, pid) == f"{pid} 0 done"


def test_nice_is_shown_and_only_root_may_lower_it(mnt: Path) -> None:
    pid = spawn(mnt, mode="chat", priority="low")

    ctl(mnt, pid, "nice 5")
    shown = read(mnt, pid, "status")
    ctl(mnt, pid, "nice -3")

    assert "Priority:\tlow\nNice:\t5\n" in shown
    assert "Nice:\t-3\n" in read(mnt, pid, "status")
    assert [errno_of(ctl, mnt, pid, f"nice {word}") for word in ("", "x", "20", "1 2")] == (
        ["EINVAL"] * 4
    )


def test_the_hash_of_a_checkpoint_is_the_reply(mnt: Path) -> None:
    pid = idle(mnt, name="saved")

    said = ok(sh(mnt, f"exec 3<>proc/{pid}/ctl; echo checkpoint >&3; cat <&3"))
    listed = ok(sh(mnt, f"ls proc/{pid}/checkpoints/"))

    assert len(said.strip()) == 64
    assert set(listed.split()) == {said.strip(), "index.json"}
    assert "T (paused)" in read(mnt, pid, "status")


def test_the_command_line_prints_the_hash_too(mnt: Path, mounts: Mounts) -> None:
    pid = idle(mnt, name="printed")

    done = mounts.run("kill", "-s", "checkpoint", str(pid), env={"NEXUSFS_MNT": str(mnt)})

    assert (mnt / f"proc/{pid}/checkpoints" / done.stdout.strip()).is_file()


def test_a_checkpoint_copied_to_another_store_goes_on_there(mnt: Path, own: Mounts) -> None:
    pid = idle(mnt, name="traveller", task="remember me")
    _, found = request(mnt / f"proc/{pid}/ctl", b"checkpoint\n")
    other = own.mount("other")

    ok(sh(other, f'mkdir -p home/x/checkpoints && cp "$1/{found.strip()}" home/x/checkpoints/',
          mnt / f"proc/{pid}/checkpoints"))  # fmt: skip
    again = spawn(other, restore=found.strip())

    assert read(other, again, "messages.jsonl") == read(
        mnt, spawn(mnt, restore=found.strip()), "messages.jsonl"
    )
    assert "Name:\ttraveller\n" in read(other, again, "status")


# -- zones


def test_an_agent_sees_only_processes_of_its_zone(mnt: Path) -> None:
    mine, other = idle(mnt, zone="mine"), idle(mnt, zone="other")
    stat = mnt / f"proc/{mine}/dispatch/list_dir"

    _, listed = request(stat, {"path": "/proc"})
    failed, _ = request(mnt / f"proc/{mine}/dispatch/read_file", {"path": f"/proc/{other}/status"})

    assert f"{mine}/" in json.loads(listed)["output"].split()
    assert f"{other}/" not in json.loads(listed)["output"].split()
    assert failed == "EREMOTEIO"


# -- the audit log


def test_the_audit_log_cannot_be_changed_and_verifies(mnt: Path, mounts: Mounts) -> None:
    wait(mnt, spawn(mnt, task="hello"))
    log = mnt / "var/log/audit.jsonl"

    for script in ("echo x >> $1", "echo x > $1", "rm -f $1", "mv $1 $1.old", "truncate -s 0 $1"):
        assert sh(mnt, script, log).returncode != 0, script
    for script in ("mv $1 $1.old", "rm -rf $1", "mkdir -p new; mv -T --exchange new $1"):
        for directory in (log.parent, log.parent.parent):
            assert sh(mnt, script, directory).returncode != 0, script
    done = mounts.run("audit", "verify", env={"NEXUSFS_MNT": str(mnt)})

    assert done.returncode == 0 and "the chain is whole" in done.stdout
    assert sh(mnt, "cat $1", log, user=1000).returncode != 0


# -- a clean stop


def unmounted(mounts: Mounts, mnt: Path) -> Callable[[], None]:
    return lambda: mounts.umount(mnt)


def terminated(mounts: Mounts, mnt: Path) -> Callable[[], None]:
    pid = daemon(mnt)

    def stop() -> None:
        os.kill(pid, signal.SIGTERM)
        until(lambda: gone(pid))

    return stop


@pytest.mark.parametrize("way", [unmounted, terminated])
def test_a_clean_stop_lets_a_tool_end_and_the_agent_goes_on_behind_it(
    own: Mounts, tmp_path: Path, way: Callable[[Mounts, Path], Callable[[], None]]
) -> None:
    mnt = own.mount(env=WITH_SLOW_TOOLS)
    pid = lingering(mnt, tmp_path, 1)

    way(own, mnt)()
    own.mount(env=WITH_SLOW_TOOLS)

    assert wait(mnt, pid) == f"{pid} 0 done"
    (result,) = [event for event in events(mnt, pid) if event["type"] == "tool_result"]
    assert result["message"]["content"] == "waited 1 s"
    assert (mnt / "note").read_text() == "done\n"


def test_a_clean_stop_does_not_wait_for_ever(own: Mounts, tmp_path: Path) -> None:
    env = {**WITH_SLOW_TOOLS, "NEXUSFS_STOP_GRACE_S": "0.2"}
    mnt = own.mount(env=env)
    pid = lingering(mnt, tmp_path, 60)
    began = time.monotonic()

    own.umount(mnt)
    own.mount(env=env)

    assert time.monotonic() - began < PATIENCE_S
    assert wait(mnt, pid) == f"{pid} 0 done"
    (result,) = [event for event in events(mnt, pid) if event["type"] == "tool_result"]
    assert "outcome is unknown" in result["message"]["content"]


def test_readers_are_freed_when_a_stop_has_settled(own: Mounts, tmp_path: Path) -> None:
    mnt = own.mount(env=WITH_SLOW_TOOLS)
    pid = lingering(mnt, tmp_path, 1)

    with running(own.directory, "cat", str(mnt / f"proc/{pid}/events_pipe")) as process:
        until(lambda: blocked(mnt) > 0)
        os.kill(daemon(mnt), signal.SIGTERM)
        out, said = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1 and "not connected" in said
    assert '"tool_result"' in out, "the reader did not see the step settle"


def test_a_spawn_is_refused_while_a_stop_settles(own: Mounts, tmp_path: Path) -> None:
    mnt = own.mount(env=WITH_SLOW_TOOLS)
    lingering(mnt, tmp_path, 2)
    seen: list[str] = []

    with opened(mnt / "proc/spawn") as fd:
        os.kill(daemon(mnt), signal.SIGTERM)

        def try_to_spawn() -> None:
            spec = b'{"model": "offline/echo", "mode": "chat"}'
            while not seen or seen[-1] == "":
                seen.append(errno_of(os.write, fd, spec))

        thread = threading.Thread(target=try_to_spawn)
        thread.start()
        thread.join(PATIENCE_S)

    assert seen[-1] in ("ENOTCONN", "ECONNABORTED")
