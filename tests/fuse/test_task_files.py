"""What the files of tasks have beside what calls and tools do: shells, streams, versions."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.faces import FilesFace, Refused, refusal, transcript
from tests.fuse.task_faces import TaskFiles, reaches, task, worker_model

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def shell(mounts: Mounts) -> Path:
    return mounts.mount("tasks-shell")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A worker that plays what its message says."""
    return worker_model(tmp_path_factory.mktemp("script"))


def test_a_line_of_shell_delegates_and_last_leads_to_the_task(
    shell: Path, model: dict[str, str]
) -> None:
    script = f"""
        echo '{{"message": "say it", "worker": {json.dumps(model)}}}' > proc/1/delegate
        cat proc/1/tasks/.last/wait proc/1/tasks/.last/result
    """

    done = subprocess.run(
        ["bash", "-ec", script], cwd=shell, capture_output=True, text=True, check=False,
        timeout=30, start_new_session=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("completed done\napples\n")


def test_a_stream_is_followed_to_its_end_and_a_cancel_ends_it(
    shell: Path, model: dict[str, str]
) -> None:
    desk = TaskFiles(FilesFace(shell))
    task_id = desk.delegate("hang", worker=model)["task_id"]
    pipe = shell / f"proc/1/tasks/{task_id}/events_pipe"

    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout
        assert '"submitted"' in reader.stdout.readline()
        assert '"working"' in reader.stdout.readline()
        desk.cancel(task_id)
        assert '"canceled"' in reader.stdout.read()

    assert reader.returncode == 0


def test_a_stale_version_is_ebusy_and_says_to_look_again(
    shell: Path, model: dict[str, str]
) -> None:
    desk = TaskFiles(FilesFace(shell))
    task_id = reaches(desk.face, desk.delegate("ask", worker=model)["task_id"], "input-required")
    seen = task(desk.face, task_id)["version"]

    order = {"verb": "revise", "text": "two\nlines", "version": seen}
    with pytest.raises(Refused, match="look at it again") as caught:
        desk._ask(f"proc/1/tasks/{task_id}/ctl", {**order, "version": seen - 1})
    desk._ask(f"proc/1/tasks/{task_id}/ctl", order)

    assert caught.value.errno == "EBUSY"
    desk.collect([task_id])
    assert transcript(desk.face, task_id)[2]["content"] == "revise: two\nlines"


def test_workspaces_are_not_supported_and_say_so(shell: Path, model: dict[str, str]) -> None:
    desk = TaskFiles(FilesFace(shell))
    task_id = desk.delegate("say", worker=model)["task_id"]

    assert refusal(lambda: desk.review(task_id, "merge")) == "EOPNOTSUPP"
    with pytest.raises(OSError, match="not supported"):
        (shell / f"proc/1/tasks/{task_id}/diff").read_text()


def test_a_dropped_task_is_gone_from_the_listing(shell: Path, model: dict[str, str]) -> None:
    desk = TaskFiles(FilesFace(shell))
    task_id = desk.delegate("say", worker=model)["task_id"]
    desk.collect([task_id])

    desk.review(task_id, "drop")

    assert str(task_id) not in os.listdir(shell / "proc/1/tasks")
    assert not (shell / f"proc/1/tasks/{task_id}").exists()
    assert not (shell / f"proc/{task_id}").exists()


def test_a_fresh_read_of_delegate_is_the_schema(shell: Path) -> None:
    schema = json.loads((shell / "proc/1/delegate").read_text())

    assert {"message", "worker", "delivery", "after"} <= schema["properties"].keys()
