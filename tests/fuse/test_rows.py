"""The behaviours of the reference runtime, each through files and through Python.

Syscalls, hooks, states and the process manager; test_rows_of_agents.py has the rest. Those of one
face alone, and of the format of a checkpoint, are in tests/unit.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nexusfs.boot.connect import connect_sync
from tests.fuse.conftest import Mounts
from tests.fuse.faces import (
    Face,
    FilesFace,
    PythonFace,
    Refused,
    events,
    refusal,
    rest,
    state,
    transcript,
)
from tests.fuse.shell import call, until

pytestmark = pytest.mark.fuse

IDLE = {"model": "offline/echo", "mode": "chat"}
MISSING = {"files": ("ENOENT", "ENOTDIR"), "python": ("ESRCH", "ENOENT")}


# Syscalls


def test_spawn_gives_pid_agent_zone_state_and_parent(face: Face) -> None:
    pid = face.spawn(**IDLE, name="bob", zone="lab")

    agent = face.agent(pid)
    told = (agent["pid"], agent["agent_id"], agent["zone"], agent["state"], agent["ppid"])
    assert told == (pid, "bob", "lab", "running", 1)


def test_metadata_arrives_in_status(face: Face) -> None:
    metadata = {"ticket": 7, "tags": ["a", None], "who": "é"}

    assert face.agent(face.spawn(**IDLE, metadata=metadata))["metadata"] == metadata


def test_kill_says_whether_it_ended_something_and_a_second_one_does_not(face: Face) -> None:
    pid = face.spawn(**IDLE)

    assert (face.kill(pid, "enough"), face.kill(pid)) == (True, False)
    assert face.wait(pid) == (-9, "enough")


def test_wait_gives_the_exit_status(face: Face) -> None:
    assert face.wait(face.spawn(model="offline/echo", task="hi")) == (0, "done")


def test_wait_times_out_on_request(face: Face) -> None:
    pid = face.spawn(**IDLE)

    assert refusal(lambda: face.wait(pid, 0.2)) == "ETIMEDOUT"
    assert state(face, pid) == "running"


def test_the_list_is_filtered_by_zone_and_by_state(face: Face) -> None:
    here, there = face.spawn(**IDLE, zone="here"), face.spawn(**IDLE, zone="there")
    face.signal(here, "stop")

    assert face.pids(zone="here") == [here]
    assert here in face.pids(state="paused") and there not in face.pids(state="paused")
    assert face.pids(zone="there", state="paused") == []


def test_an_unknown_pid_is_not_found(face: Face) -> None:
    assert refusal(lambda: face.signal(99_999, "stop")) in MISSING[face.name]
    assert refusal(lambda: face.wait(99_999, 1)) in MISSING[face.name]


def test_with_the_runtime_off_each_call_says_not_available(
    tmp_path: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    off = {"NEXUSFS_SERVICES_OFF": '["agents"]'}
    files = FilesFace(mounts.mount("off", env=off))
    monkeypatch.setenv("NEXUSFS_SERVICES_OFF", '["agents"]')

    with pytest.raises(Refused, match="not available") as spawn:
        files.spawn(**IDLE)
    with connect_sync(tmp_path / "store") as kernel:
        python = PythonFace(kernel)
        calls = (
            lambda: python.spawn(**IDLE), lambda: python.kill(2), lambda: python.wait(2, 1),
            python.pids,
        )  # fmt: skip
        told = [refusal(one) for one in calls]

    assert [spawn.value.errno, *told] == ["EOPNOTSUPP"] * 5


# Hooks


@pytest.fixture
def hook(face: Face, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Installs a program at points; gives the file that it adds each context to."""

    def install(*points: str, script: str = "", **more: Any) -> Path:
        told = tmp_path / "told"
        told.touch()
        program = tmp_path / f"hook{len(list(tmp_path.glob('hook*')))}"
        program.write_text(f'#!/bin/sh\ncontext=$(cat)\necho "$context" >> {told}\n{script}\n')
        program.chmod(0o755)
        rows = [{"on": point, "command": [str(program)], **more} for point in points]
        face.put("/etc/hooks.json", json.dumps({"hooks": rows}))
        return told

    yield install
    face.put("/etc/hooks.json", '{"hooks": []}')


def contexts(told: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.read_text().splitlines()]


def test_the_hooks_of_a_life_fire_once_with_the_right_fields(
    face: Face, hook: Callable[..., Path]
) -> None:
    told = hook("pre_spawn", "post_spawn", "post_terminate")

    pid = face.spawn(**IDLE, name="hooked", zone="lab", metadata={"k": 1})
    face.kill(pid, "the reason")
    until(lambda: len(contexts(told)) >= 3)

    assert [row["point"] for row in contexts(told)] == ["pre_spawn", "post_spawn", "post_terminate"]
    for row in contexts(told):
        named = (row["agent_id"], row["zone_id"], row["parent_pid"], row["uid"], row["metadata"])
        assert named == ("hooked", "lab", 1, os.getuid(), {"k": 1})
    assert contexts(told)[1]["pid"] == pid
    assert (contexts(told)[2]["exit_code"], contexts(told)[2]["reason"]) == (-9, "the reason")


def test_a_pre_hook_that_refuses_leaves_no_pid_and_no_file(
    face: Face, hook: Callable[..., Path]
) -> None:
    before = face.pids()
    hook("pre_spawn", script="echo 'not today' >&2; exit 13")

    with pytest.raises(Refused, match="not today") as caught:
        face.spawn(**IDLE, name="refused")

    assert caught.value.errno == "EACCES"
    assert face.pids() == before
    hook()
    assert face.spawn(**IDLE) == max(before) + 1


def test_a_post_hook_that_fails_is_a_warning_of_the_agent(
    face: Face, hook: Callable[..., Path]
) -> None:
    told = hook("post_spawn", script="echo 'too late' >&2; exit 1")

    pid = face.spawn(**IDLE)

    assert "too late" in face.agent(pid)["warnings"][-1]
    assert len(contexts(told)) == 1


# States


@pytest.mark.parametrize(
    ("verbs", "refused"),
    [
        (["stop"], ["stop"]),
        ([], ["cont", "int"]),
        (["kill"], ["stop", "cont", "int", "nice 1", "checkpoint", "steer x"]),
        (["stop", "kill"], ["stop", "cont"]),
        ([], ["reap"]),
    ],
)
def test_a_move_that_is_not_legal_is_ebusy_and_changes_nothing(
    face: Face, verbs: list[str], refused: list[str]
) -> None:
    pid = rest(face, face.spawn(**IDLE))
    for verb in verbs:
        face.signal(pid, verb)
    before = events(face, pid)

    assert [refusal(partial(face.signal, pid, verb)) for verb in refused] == ["EBUSY"] * len(
        refused
    )
    assert events(face, pid) == before


def test_every_state_that_shows_is_one_of_five(face: Face) -> None:
    five = {"C (created)", "R (running)", "T (paused)", "Z (zombie)", "X (stopped)"}
    pid = face.spawn(**IDLE)
    seen = set()
    for verb in ("", "stop", "cont", "kill"):
        if verb:
            face.signal(pid, verb)
        lines = face.text(f"/proc/{pid}/status").splitlines()
        seen.add(dict(line.split(":\t") for line in lines)["State"])

    assert seen == {"R (running)", "T (paused)", "X (stopped)"} and seen <= five


def test_an_ended_agent_takes_no_message(face: Face) -> None:
    pid = face.spawn(**IDLE)
    face.kill(pid)

    assert refusal(lambda: face.send(pid, "too late")) == "EPIPE"


def test_a_status_that_was_read_does_not_change(face: Face) -> None:
    pid = face.spawn(**IDLE)
    before = face.agent(pid)
    face.kill(pid)

    assert (before["state"], face.agent(pid)["state"]) == ("running", "stopped")


# Process manager


def test_pids_are_unique_and_count_up(face: Face) -> None:
    pids = face.at_once(8, lambda: face.spawn(**IDLE))

    assert len(set(pids)) == 8
    assert max(pids) < face.spawn(**IDLE)


def test_of_five_concurrent_singletons_one_wins(face: Face) -> None:
    found = face.at_once(5, lambda: face.spawn(**IDLE, name="single", singleton=True))

    losers = [one.errno for one in found if isinstance(one, Refused)]
    (winner,) = [one for one in found if not isinstance(one, Refused)]
    assert losers == ["EEXIST"] * 4
    face.kill(winner)
    assert face.spawn(**IDLE, name="single", singleton=True) > winner


def test_a_child_is_a_zombie_until_its_parent_waits(face: Face, play: Callable[..., int]) -> None:
    spec = json.dumps({"model": "offline/echo", "task": "hi", "name": "child"})
    parent = play(
        call("write_file", path="/proc/spawn", content=spec), {"content": "waiting"}, mode="chat"
    )
    rest(face, parent)
    (child,) = face.agent(parent)["children"]
    until(lambda: state(face, child) == "zombie")

    assert face.agent(child)["ppid"] == parent
    assert face.wait(child) == (0, "done")
    assert state(face, child) == "zombie", "a person's wait reaps nothing"
    face.kill(parent)
    assert state(face, child) == "stopped"


def test_checkpoint_pauses_and_gives_a_hash(face: Face) -> None:
    pid = rest(face, face.spawn(**IDLE, name="saved", task="hello"))

    found = face.signal(pid, "checkpoint")

    assert state(face, pid) == "paused"
    data = face.text(f"/home/saved/checkpoints/{found}").encode()
    assert hashlib.sha256(data).hexdigest() == found
    face.signal(pid, "cont")
    assert state(face, pid) == "running"


def test_restore_makes_a_new_running_agent_of_the_same_name_and_turns(
    face: Face, play: Callable[..., int]
) -> None:
    pid = rest(
        face,
        play(call("list_dir", path="/"), {"content": "one"}, mode="chat", name="turned"),
    )
    found = face.signal(pid, "checkpoint")

    again = face.spawn(restore=found)

    agent = face.agent(again)
    assert again > pid
    assert (agent["agent_id"], agent["turn_count"], agent["state"]) == ("turned", 1, "running")
    assert transcript(face, again) == transcript(face, pid)


def test_an_unknown_hash_is_not_found(face: Face) -> None:
    assert refusal(lambda: face.spawn(restore="f" * 64)) == "ENOENT"


def test_reaping_takes_an_ended_agent_off_the_list(face: Face) -> None:
    pid = face.spawn(**IDLE)
    face.kill(pid)

    face.signal(pid, "reap")

    assert pid not in face.pids()
