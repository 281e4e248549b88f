"""What other users may, on a mount that lets them in."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import (
    end,
    errors,
    events,
    idle,
    inputs,
    ok,
    read,
    sh,
    spawn,
    wait,
)

pytestmark = pytest.mark.fuse

NOBODY = 65534
PUBLIC = {"status", "status.json", "children", "wchan", "wait", "exit_code"}


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    return mounts.mount("a", "--allow-other")


@pytest.fixture(scope="module")
def ended(mnt: Path) -> int:
    """An agent that has ended."""
    pid = spawn(mnt, task="hello")
    assert wait(mnt, pid) == f"{pid} 0 done"
    return pid


@pytest.fixture
def chatty(mnt: Path) -> Iterator[int]:
    """A chat agent that waits for a message, and goes when the test ends."""
    pid = idle(mnt)
    yield pid
    end(mnt, pid)


def as_nobody(mnt: Path, script: str) -> subprocess.CompletedProcess[str]:
    return sh(mnt, script, user=NOBODY)


def test_everybody_reads_exactly_what_the_contract_lists(mnt: Path, ended: int) -> None:
    script = (
        f'cd proc/{ended}; for f in *; do if [ -d "$f" ]; then ls "$f"; else cat "$f"; fi '
        '> /dev/null 2>&1 && echo "$f"; done; true'
    )

    readable = set(ok(as_nobody(mnt, script)).split())

    assert readable == PUBLIC


@pytest.mark.parametrize("name", ["cwd", "exe"])
def test_the_links_of_an_agent_are_its_owners(mnt: Path, name: str) -> None:
    pid = spawn(mnt, agent="assistant", task="hello")

    done = as_nobody(mnt, f"readlink proc/{pid}/{name}")

    assert done.returncode != 0 and done.stdout == ""


def test_root_s_agent_cannot_be_ended_nor_told_by_others(mnt: Path, chatty: int) -> None:
    by_ctl = as_nobody(mnt, f"exec 3>proc/{chatty}/ctl; echo kill >&3")
    by_stdin = as_nobody(mnt, f"echo hello > proc/{chatty}/stdin")
    by_tool = as_nobody(mnt, f"ls proc/{chatty}/dispatch")

    assert "not permitted" in by_ctl.stderr
    assert "Permission denied" in by_stdin.stderr and "Permission denied" in by_tool.stderr
    assert "R (running)" in read(mnt, chatty, "status")
    assert inputs(mnt, chatty) == []


def test_root_s_agent_is_neither_cut_nor_limited_nor_approved_by_others(
    mnt: Path, chatty: int
) -> None:
    before = read(mnt, chatty, "grants"), read(mnt, chatty, "limits/tokens")

    said = as_nobody(mnt, (
        f"cd proc/{chatty}; (echo '{{\"tools\": []}}' > grants); (echo 1 > limits/tokens); "
        "(echo approve > approvals/1); ls ../1/approvals"
    ))  # fmt: skip

    assert said.stderr.count("Permission denied") == 3 and said.stdout == ""
    assert (read(mnt, chatty, "grants"), read(mnt, chatty, "limits/tokens")) == before


def test_another_user_spawns_and_owns_and_root_sees_it(mnt: Path) -> None:
    script = (
        'exec 3<>proc/spawn; echo \'{"model":"offline/echo","mode":"chat"}\' >&3;'
        "read -r pid <&3; echo hello > proc/$pid/stdin; head -c 6 proc/$pid/stdout_pipe;"
        "echo kill > proc/$pid/ctl; cat proc/$pid/wait proc/$pid/usage > /dev/null; echo $pid;"
        "stat -c %u proc/$pid/status"
    )

    said = ok(as_nobody(mnt, script)).split()

    assert said[0] == "hello" and said[2] == str(NOBODY)
    assert f"Uid:\t{NOBODY}\n" in read(mnt, int(said[1]), "status")
    assert read(mnt, int(said[1]), "stdout") == "hello\n"


def test_each_user_has_his_own_error_log_last_and_calls(mnt: Path) -> None:
    ok(sh(mnt, 'echo \'{"path": "/README"}\' > dispatch/read_file'))
    sh(mnt, "echo my own mistake > proc/spawn")
    mine = errors(mnt)

    done = as_nobody(
        mnt, "echo '{\"modle\": 1}' > proc/spawn; cat sys/error_log; ls dispatch/.calls; ls -A proc"
    )

    assert "'modle'" in done.stdout and "my own mistake" not in done.stdout
    assert "call_" not in done.stdout and ".last" not in done.stdout
    assert errors(mnt) == mine


def test_a_tool_acts_with_the_rights_of_its_caller(mnt: Path) -> None:
    (mnt / "secret").write_text("x")
    (mnt / "secret").chmod(0o600)

    done = as_nobody(mnt, 'exec 3<>dispatch/read_file; echo \'{"path": "/secret"}\' >&3; cat <&3')

    said = json.loads(done.stdout)
    assert not said["success"] and "permission denied" in said["error"]


def test_an_agent_acts_with_the_rights_of_its_spawner(mnt: Path) -> None:
    (mnt / "hidden").write_text("x")
    (mnt / "hidden").chmod(0o600)
    spec = json.dumps({"model": "offline/demo", "task": "read /hidden"})

    pid = ok(as_nobody(
        mnt, f"exec 3<>proc/spawn; echo '{spec}' >&3; read -r pid <&3; cat proc/$pid/wait"
    )).split()[0]  # fmt: skip

    (result,) = [e for e in events(mnt, int(pid)) if e["type"] == "tool_result"]
    assert "permission denied" in result["error"]


def test_an_installed_agent_that_the_caller_may_not_read_is_eacces(mnt: Path) -> None:
    agent = mnt / "bin/private.md"
    agent.write_text("---\nmodel: offline/echo\n---\nSecret.\n")
    agent.chmod(0o700)

    done = as_nobody(mnt, "echo private hello > proc/spawn")

    assert "Permission denied" in done.stderr


def test_a_handle_keeps_its_openers_rights(mnt: Path, chatty: int) -> None:
    done = sh(
        mnt, f"exec 3>proc/{chatty}/ctl; setpriv --reuid={NOBODY} --clear-groups echo stop >&3"
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "T (paused)" in read(mnt, chatty, "status")
