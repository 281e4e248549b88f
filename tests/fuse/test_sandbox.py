"""Programs of exec and python on a real mount, in real sandboxes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import request

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    return mounts.mount("a", "--allow-other")


def run(mnt: Path, command: str | list[str], tool: str = "exec", **more: Any) -> str:
    """The output of a program that ran to its end."""
    name = "script" if tool == "python" else "command"
    failed, text = request(mnt / "dispatch" / tool, {name: command, **more})
    assert not failed, text
    output: str = json.loads(text)["output"]
    return output


def test_a_command_line_runs_and_its_exit_code_is_in_the_reply(mnt: Path) -> None:
    assert run(mnt, "echo out; echo err >&2; exit 3") == "out\n[stderr]\nerr\n[exit code 3]"


def test_a_list_of_words_is_run_without_a_shell(mnt: Path) -> None:
    assert run(mnt, ["printf", "%s|", "$HOME", "a b"]) == "$HOME|a b|\n[exit code 0]"


def test_a_python_script_runs(mnt: Path) -> None:
    assert run(mnt, "import sys; print(6 * 7)", "python") == "42\n[exit code 0]"


def test_what_a_program_writes_to_the_mount_is_there(mnt: Path) -> None:
    os.mkdir(mnt / "work")

    run(mnt, "mkdir d && echo hi > d/f && pwd", cwd="/work")

    assert (mnt / "work/d/f").read_text() == "hi\n"
