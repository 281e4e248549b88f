"""The behaviours of the reference runtime, each through files and through Python.

Source: REFERENCE.md, Behaviours to show: Syscalls, Hooks, States, Process manager, Registry,
Checkpoints, Loop, Audit. Those of one face alone, and of the format of a checkpoint, are in
tests/unit.
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
from tests.fuse.faces import Face, FilesFace, PythonFace, Refused
from tests.fuse.shell import call, until

pytestmark = pytest.mark.fuse

IDLE = {"model": "offline/echo", "mode": "chat"}
MISSING = {"files": ("ENOENT", "ENOTDIR"), "python": ("ESRCH", "ENOENT")}


@pytest.fixture(scope="module", params=["files", "python"])
def face(
    request: pytest.FixtureRequest, mounts: Mounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Face]:
    if request.param == "files":
        yield FilesFace(mounts.mount("rows"))
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
            with connect_sync(tmp_path_factory.mktemp("rows") / "store") as kernel:
                yield PythonFace(kernel)


@pytest.fixture
def play(face: Face, tmp_path: Path) -> Callable[..., int]:
    """Spawns an agent whose model plays the turns."""

    def spawned(*turns: dict[str, Any], **spec: Any) -> int:
        script = tmp_path / f"script-{len(list(tmp_path.iterdir()))}"
        script.write_text(json.dumps(turns))
        return face.spawn(**{"model": f"offline/script:{script}", "task": "go", **spec})

    return spawned


def state(face: Face, pid: int) -> str:
    return str(face.agent(pid)["state"])


def refusal(call_: Callable[[], Any]) -> str:
    """The errno's name that a call is refused with."""
    with pytest.raises(Refused) as caught:
        call_()
    return caught.value.errno


def events(face: Face, pid: int, kind: str = "") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in face.text(f"/proc/{pid}/events").splitlines()]
    return [row for row in rows if kind in ("", row["type"])]


def transcript(face: Face, pid: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in face.text(f"/proc/{pid}/messages.jsonl").splitlines()]


def rest(face: Face, pid: int) -> int:
    """The pid, when the agent waits for a message."""
    until(lambda: face.text(f"/proc/{pid}/wchan") == "message\n")
    return pid


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


# Registry


def test_an_installed_agent_gets_every_field_of_its_file(face: Face) -> None:
    fields = {
        "description": "It knows.", "model": "offline/echo", "fallback_models": ["offline/demo"],
        "tools": ["grep"], "max_turns": 7, "max_context_tokens": 9000, "trim": "summarize",
        "parallel_tool_dispatch": False, "mode": "chat", "life": "detached", "priority": "high",
        "checkpoint": "turn", "zone": "lab", "cwd": "/bin", "labels": {"a": "b"},
        "metadata": {"k": 1}, "model_settings": {"temperature": 0.5},
        "output_schema": {"type": "object"},
    }  # fmt: skip
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())
    face.put("/bin/expert.md", f"---\n{front}---\nYou are an expert.\n", 0o755)

    spec = json.loads(face.text(f"/proc/{face.spawn(agent='expert')}/spec"))

    assert {key: spec[key] for key in fields} == fields
    assert (spec["agent"], spec["instructions"]) == ("expert", "You are an expert.")


def test_an_unknown_installed_name_is_not_found(face: Face) -> None:
    assert refusal(lambda: face.spawn(agent="nobody-of-that-name")) == "ENOENT"


def test_an_inline_spec_needs_no_installed_agent(face: Face) -> None:
    pid = face.spawn(model="offline/echo", task="inline")

    assert face.wait(pid) == (0, "done")
    assert face.agent(pid)["agent"] == ""


def test_neither_an_installed_nor_an_inline_agent_is_an_error(face: Face) -> None:
    with pytest.raises(Refused, match="say what to run") as caught:
        face.spawn()

    assert caught.value.errno == "EINVAL"


# Checkpoints


def test_a_checkpoint_can_be_removed_as_a_file_and_not_be_restored_then(face: Face) -> None:
    pid = rest(face, face.spawn(**IDLE, name="dropped", task="hello"))
    found = face.signal(pid, "checkpoint")

    if isinstance(face, FilesFace):
        (face.mnt / f"proc/{pid}/checkpoints" / found).unlink()
    else:
        assert isinstance(face, PythonFace)
        assert face.kernel.sys_checkpoint_delete("dropped", found)
        assert not face.kernel.sys_checkpoint_delete("dropped", found)

    assert refusal(lambda: face.spawn(restore=found)) == "ENOENT"


def test_the_index_is_newest_first(face: Face) -> None:
    pid = rest(face, face.spawn(**IDLE, name="indexed", task="hello"))
    made = []
    for number in range(3):
        face.send(pid, f"message {number}")
        made.append(face.signal(pid, "checkpoint"))

    index = json.loads(face.text("/home/indexed/checkpoints/index.json"))

    assert [row["checkpoint_hash"] for row in index] == made[::-1]
    assert {"agent_id", "pid", "turn_count", "created_at", "size_bytes"} <= index[0].keys()


def test_ten_checkpoints_at_once_are_all_kept(face: Face) -> None:
    pids = [rest(face, face.spawn(**IDLE, name="ten", task=f"task {n}")) for n in range(10)]
    left = list(pids)

    found = face.at_once(10, lambda: face.signal(left.pop(), "checkpoint"))

    index = json.loads(face.text("/home/ten/checkpoints/index.json"))
    assert sorted(row["checkpoint_hash"] for row in index) == sorted(found)


# Loop


def test_an_answer_without_tool_calls_ends_it(face: Face, play: Callable[..., int]) -> None:
    pid = play({"content": "the answer"})

    assert face.wait(pid) == (0, "done")
    assert face.text(f"/proc/{pid}/result") == "the answer\n"


def test_three_rounds_dispatch_three_times(face: Face, play: Callable[..., int]) -> None:
    pid = play(*[call("list_dir", path="/bin")] * 3, {"content": "end"})

    assert face.wait(pid) == (0, "done")
    assert len(events(face, pid, "tool_result")) == 3
    assert face.agent(pid)["turn_count"] == 3


def test_max_turns_stops_it_with_an_answer_and_code_3(face: Face, play: Callable[..., int]) -> None:
    pid = play(*[call("list_dir", path="/bin")] * 2, {"content": "so far"}, max_turns=2)

    assert face.wait(pid) == (3, "max_turns (2) reached")
    assert face.text(f"/proc/{pid}/result") == "so far\n"


def test_overflow_is_trimmed_and_it_still_finishes(face: Face, play: Callable[..., int]) -> None:
    face.put("/long", "a line of text\n" * 400)
    turns = [call("read_file", path="/long")] * 12
    pid = play(*turns, {"content": "end"}, max_context_tokens=6000)

    assert face.wait(pid) == (0, "done")
    assert len(events(face, pid, "trim")) > 0
    assert max(row["messages"] for row in events(face, pid, "model_call")) < 20


def test_tool_events_come_before_the_text_that_follows_them(
    face: Face, play: Callable[..., int]
) -> None:
    pid = play(call("list_dir", path="/bin"), {"content": "the text"})
    face.wait(pid)

    kinds = [row["type"] for row in events(face, pid)]
    text = [row for row in events(face, pid, "model_reply") if row["message"]["content"]]
    assert kinds.index("tool_call") < kinds.index("tool_result") < len(kinds) - 2
    assert text[0] == events(face, pid, "model_reply")[-1]


def test_there_is_a_checkpoint_at_the_end_when_the_spec_says_turn(
    face: Face, play: Callable[..., int]
) -> None:
    pid = play(call("list_dir", path="/"), {"content": "end"}, checkpoint="turn", name="ended")
    face.wait(pid)

    newest = json.loads(face.text("/home/ended/checkpoints/index.json"))[0]["checkpoint_hash"]
    kept = json.loads(face.text(f"/home/ended/checkpoints/{newest}"))["transcript"]
    assert kept[-1]["content"] == "end"


def test_a_kill_during_a_model_call_leaves_a_valid_history(
    face: Face, play: Callable[..., int]
) -> None:
    pid = play(call("list_dir", path="/"), {"hang": True})
    until(lambda: face.text(f"/proc/{pid}/wchan") == "model\n" and face.agent(pid)["turn_count"])

    face.kill(pid)

    roles = [message["role"] for message in transcript(face, pid)]
    assert roles == ["user", "assistant", "tool"]
    assert face.wait(pid) == (-9, "killed")


# Audit


def audited(face: Face, **fields: Any) -> list[dict[str, Any]]:
    """Lines of the audit log with these values."""
    rows = [json.loads(line) for line in face.text("/var/log/audit.jsonl").splitlines()]
    return [row for row in rows if fields.items() <= row.items()]


def test_spawn_dispatch_and_end_are_in_the_audit_log(face: Face, play: Callable[..., int]) -> None:
    pid = play(call("list_dir", path="/bin"), {"content": "end"}, name="watched", zone="lab")
    face.wait(pid)

    rows = audited(face, pid=pid, agent="watched", zone="lab", parent=1, uid=os.getuid())

    assert [row["event"] for row in rows] == ["spawned", "dispatch", "dispatched", "end"]
    assert rows[1]["tool"] == "list_dir"
    assert (rows[3]["exit_code"], rows[3]["reason"]) == (0, "done")


def test_a_tool_that_an_agent_may_not_use_is_refused_in_the_audit_log(
    face: Face, play: Callable[..., int]
) -> None:
    pid = play(call("write_file", path="/x", content="x"), {"content": "end"}, tools=["grep"])
    face.wait(pid)

    (row,) = audited(face, pid=pid, event="refused")

    assert (row["op"], row["target"]) == ("dispatch", "write_file")
    assert audited(face, pid=pid, event="dispatch") == []
