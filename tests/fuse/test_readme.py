"""The README's commands, run as they stand there."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def shell_script() -> str:
    """All shell blocks as one script; make targets are only looked up: test would run this.

    The ports of the README may be taken here; the script gets others.
    """
    lines = "\n".join(blocks("sh"))
    for port in set(re.findall(r"--port (\d+)", lines)):
        lines = lines.replace(port, free_port())
    return re.sub(r"^make (\w+)$", rf"make -n -C {ROOT} \1 >/dev/null", lines, flags=re.MULTILINE)


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the shell blocks print, run in one bash that stops at the first failure."""
    home = tmp_path_factory.mktemp("home")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NEXUSFS_", "XDG_"))}
    env |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    at_exit = f"set +e; cd /; kill ${{mock:-}} 2>/dev/null; nexusfs umount -l {home}/nexus"
    script = f"set -eu\ntrap '{at_exit}' EXIT\n{shell_script()}"
    printed = home / "printed"
    with open(printed, "w") as out:
        done = subprocess.run(
            ["bash", "-c", script], env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, printed.read_text()
    return printed.read_text()


def test_every_shell_command_of_the_readme_succeeds(transcript: str) -> None:
    assert "2 0 done" in transcript


def test_the_session_shows_the_answer_and_the_state(transcript: str) -> None:
    assert "not a language model" in transcript
    assert "State:\tX (stopped)" in transcript


def test_the_mistake_of_the_readme_is_explained(transcript: str) -> None:
    assert '"path": "/dispatch/read_file"' in transcript


def test_the_conversation_of_the_readme_ends_with_its_reason(transcript: str) -> None:
    assert "-15 that is all" in transcript


def test_the_note_is_there_after_the_next_mount(transcript: str) -> None:
    assert "remember this" in transcript


def test_the_scripted_endpoint_answers_through_litellm(transcript: str) -> None:
    assert "There is a README at the top." in transcript


def test_ten_workers_are_followed_collected_canceled_and_revised(transcript: str) -> None:
    assert transcript.count("It is about paper.") >= 8
    assert "canceled it takes too long" in transcript
    assert "input-required Will this do?" in transcript
    assert "Short." in transcript


def test_the_script_that_delegates_is_shorter_than_twenty_lines() -> None:
    (script,) = [block for block in blocks("sh") if "proc/1/delegate" in block]

    assert len(script.splitlines()) < 20


def test_the_copilot_of_a_new_store_hands_its_files_out(transcript: str) -> None:
    assert transcript.count("(researcher) is completed") == 5
    assert "this is paper 4" in transcript


def test_python_in_process_does_what_the_readme_shows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "assistant.md" in done.stdout
    assert "exit_code=0" in done.stdout


def test_python_over_a_mount_does_what_the_readme_shows(mnt: Path, tmp_path: Path) -> None:
    (tmp_path / "nexus").symlink_to(mnt)

    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[1]], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("0 done")


def test_a_tool_of_ones_own_is_registered_as_the_readme_shows(
    mounts: Mounts, tmp_path: Path
) -> None:
    (tmp_path / "my_tools.py").write_text(blocks("python")[2])
    env = {"PYTHONPATH": str(tmp_path), "NEXUSFS_TOOL_MODULES": '["my_tools"]'}

    mnt = mounts.mount("own-tool", env=env)
    done = mounts.run("call", "--mnt", str(mnt), "count_words", "path=/README")

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_the_configuration_of_the_readme_is_valid(mounts: Mounts, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(blocks("toml")[0])

    mnt = mounts.mount("configured", "--config", str(file))

    assert "anthropic/claude-sonnet-4-5" in (mnt / "sys/config").read_text()
