"""What an agent inherits, and what it may not have."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.shell import (
    call,
    end,
    events,
    idle,
    pids,
    play,
    read,
    request,
    spawn,
    until,
    wait,
)

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def looker(mnt: Path) -> str:
    """The name of an installed agent that may only look."""
    agent = mnt / "bin/looker.md"
    agent.write_text(
        "---\nname: looker\nmodel: offline/echo\ntools: read_file, grep\n---\nYou look.\n"
    )
    agent.chmod(0o755)
    return "looker"


def test_an_idempotency_key_gives_the_first_agent_again(mnt: Path) -> None:
    first = spawn(mnt, task="once", idempotency_key="k-1")

    assert spawn(mnt, task="once", idempotency_key="k-1") == first


def test_a_second_singleton_is_eexist(mnt: Path) -> None:
    pid = idle(mnt, name="only-one", singleton=True)

    failed, said = request(
        mnt / "proc/spawn", {"model": "offline/echo", "name": "only-one", "singleton": True}
    )

    end(mnt, pid)
    assert failed == "EEXIST"
    assert str(pid) in said


def test_an_agent_lists_only_the_tools_it_may_use(mnt: Path) -> None:
    pid = spawn(mnt, task="hello", tools=["grep", "read_*"])

    assert sorted(os.listdir(mnt / f"proc/{pid}/dispatch")) == ["grep", "read_file"]
    assert json.loads(read(mnt, pid, "spec"))["tools"] == ["grep", "read_file"]


def test_no_tools_are_none(mnt: Path) -> None:
    pid = spawn(mnt, task="hello", tools=[])

    assert os.listdir(mnt / f"proc/{pid}/dispatch") == []


def test_overriding_an_installed_agent_can_only_narrow(mnt: Path, looker: str) -> None:
    narrower = spawn(mnt, agent=looker, task="hello", tools=["grep"])

    failed, said = request(mnt / "proc/spawn", {"agent": looker, "tools": ["grep", "write_file"]})

    assert os.listdir(mnt / f"proc/{narrower}/dispatch") == ["grep"]
    assert failed == "EPERM"
    assert "write_file" in said and "grep" not in said.replace("write_file", "")


def test_clamp_narrows_instead_and_says_so(mnt: Path, looker: str) -> None:
    pid = spawn(
        mnt, agent=looker, task="hello", tools=["grep", "write_file"], on_excess="clamp"
    )  # fmt: skip

    assert os.listdir(mnt / f"proc/{pid}/dispatch") == ["grep"]
    assert "write_file" in " ".join(json.loads(read(mnt, pid, "status.json"))["warnings"])


def child_spec(**spec: Any) -> dict[str, Any]:
    """A turn in which an agent spawns a child, through the tool that writes files."""
    text = json.dumps({"model": "offline/echo", "mode": "chat", **spec})
    return call("write_file", path="/proc/spawn", content=text)


def test_a_child_inherits_model_and_tools_and_dies_with_its_parent(
    mnt: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    inherits = json.dumps({"mode": "chat"})
    before = pids(mnt)
    parent = play(
        mnt, script, call("write_file", path="/proc/spawn", content=inherits), {"hang": True},
        tools=["write_file", "grep"],
    )  # fmt: skip

    until(lambda: len(pids(mnt) - before) == 2)
    (child,) = pids(mnt) - before - {parent}
    listed = read(mnt, parent, "children").split()
    spec = json.loads(read(mnt, child, "spec"))
    status = read(mnt, child, "status")
    end(mnt, parent)

    assert listed == [str(child)]
    assert f"PPid:\t{parent}\n" in status
    assert spec["model"] == f"offline/script:{script}"
    assert spec["tools"] == ["grep", "write_file"]
    assert wait(mnt, child).split()[1] == "-9"


def test_a_child_that_asks_for_more_than_its_parent_has_is_eperm(mnt: Path, tmp_path: Path) -> None:
    before = pids(mnt)

    pid = play(
        mnt, tmp_path / "script.json", child_spec(tools=["write_file", "edit_file"]),
        {"content": "no luck"}, tools=["write_file"],
    )  # fmt: skip
    wait(mnt, pid)

    (result,) = [event for event in events(mnt, pid) if event["type"] == "tool_result"]
    assert "edit_file" in result["error"]
    assert pids(mnt) - before == {pid}


def test_a_detached_child_outlives_its_parent(mnt: Path, tmp_path: Path) -> None:
    before = pids(mnt)

    parent = play(
        mnt, tmp_path / "script.json", child_spec(life="detached"), {"content": "gone"}
    )  # fmt: skip
    wait(mnt, parent)
    (child,) = pids(mnt) - before - {parent}
    status = read(mnt, child, "status")
    end(mnt, child)

    assert "PPid:\t1\n" in status and "R (running)" in status


def test_a_tool_that_an_agent_may_not_use_is_unknown_to_it(mnt: Path, tmp_path: Path) -> None:
    pid = play(
        mnt, tmp_path / "script.json", call("write_file", path="/evil", content="x"),
        {"content": "done"}, tools=["read_file"],
    )  # fmt: skip
    wait(mnt, pid)

    (result,) = [event for event in events(mnt, pid) if event["type"] == "tool_result"]
    assert "write_file" in result["error"] and "no tool" in result["error"]
    assert not (mnt / "evil").exists()


def test_an_installed_agent_that_is_edited_is_the_new_one_at_the_next_spawn(mnt: Path) -> None:
    agent = mnt / "bin/changing.md"
    for word in ("one", "two"):
        agent.write_text(f"---\nmodel: offline/echo\nmode: chat\n---\nYou are {word}.\n")
        agent.chmod(0o755)

        pid = idle(mnt, agent="changing", model="offline/echo")

        spec = json.loads((mnt / f"proc/{pid}/spec").read_text())
        end(mnt, pid)
        assert spec["instructions"].strip() == f"You are {word}."
