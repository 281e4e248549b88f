"""The behaviours of the reference runtime: registry, checkpoints, the loop and the audit log."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.fuse.faces import (
    Face,
    FilesFace,
    PythonFace,
    Refused,
    events,
    refusal,
    rest,
    transcript,
)
from tests.fuse.shell import call, until

pytestmark = pytest.mark.fuse

IDLE = {"model": "offline/echo", "mode": "chat"}


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
    pid = play(*turns, {"content": "end"}, max_context_tokens=6000, tools=["read_file"])

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
