"""Whatever is written to the control files of a mount, it answers with an errno and goes on.

More examples: FUZZ_EXAMPLES=2000 make test ARGS=tests/prop/test_fuzz_mount.py
"""

import errno
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuse.conftest import Mounts
from tests.fuse.shell import ctl, errno_of, idle, opened, pids, reply

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
TOOLS = (
    "read_file", "write_file", "edit_file", "list_dir", "glob", "grep", "exec", "python", "spawn",
    "wait", "send", "kill", "delegate", "collect", "cancel", "review", "ask", "artifact",
)  # fmt: skip
SPEC_KEYS = (
    "agent", "name", "description", "model", "fallback_models", "instructions", "task", "tools",
    "disallowed_tools", "max_turns", "model_settings", "mode", "life", "zone", "cwd", "labels",
    "metadata", "singleton", "on_excess", "idempotency_key", "prompt", "limits", "modle",
)  # fmt: skip
ARGUMENTS = (
    "path", "content", "old", "new", "replace_all", "pattern", "offset", "limit", "column",
    "include", "depth", "command", "script", "cwd", "stdin", "timeout_s", "spec", "message",
    "worker", "after", "delivery", "task_id", "task_ids", "count", "verdict", "question",
)  # fmt: skip
WORDS = (
    "offline/echo", "offline/demo", "offline/", "assistant", "nobody", "/", "/README", "..",
    "/proc/spawn", "/proc/1/status", "/bin/../etc", "(a+)+$", "[", "**/*", "*", "oneshot", "chat",
    "", "\x00", "\ud800", "/sys/error_log", "/dispatch/grep", "a" * 300,
)  # fmt: skip
VERBS = ("term", "kill", "int", "stop", "cont", "steer", "reap", "cancel-all", "hurt")

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def objects(keys: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """JSON objects that are nearly right."""
    names = st.sampled_from(keys) | st.text(max_size=5)
    return st.dictionaries(names, values, max_size=5).map(lambda value: json.dumps(value).encode())


def requests(keys: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Random bytes, random JSON, JSON with bytes around it, and text."""
    good = objects(keys)
    mixed = st.tuples(st.binary(max_size=8), good, st.binary(max_size=8)).map(b"".join)
    markdown = st.text(max_size=80).map(
        lambda text: f"---\n{text}\n---\n{text}".encode("utf-8", "replace")
    )
    return (
        st.binary(max_size=200)
        | good
        | mixed
        | markdown
        | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    )


@st.composite
def pieces(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """One to three requests, cut at random places."""
    whole = b"".join(draw(st.lists(data, min_size=1, max_size=3)))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    bounds = [0, *cuts, len(whole)]
    return [whole[a:b] for a, b in pairwise(bounds)]


@pytest.fixture(scope="module")
def mnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    mounts = Mounts(tmp_path_factory.mktemp("fuzz"))
    yield mounts.mount(env={"NEXUSFS_DEFAULT_MODEL": "offline/echo", "NEXUSFS_RETAIN_COUNT": "50"})
    mounts.close()


@pytest.fixture(scope="module")
def victim(mnt: Path) -> int:
    return idle(mnt)


def converse(path: Path, parts: list[bytes]) -> None:
    """Writes the parts, reads now and then, closes; every failure is an errno, and not EIO."""
    fd = os.open(path, os.O_RDWR)
    try:
        for part in parts:
            try:
                assert os.write(fd, part) == len(part)
            except OSError as exc:
                assert exc.errno != errno.EIO, part
                assert reply(fd), "a failed handle says why"
        reply(fd)
    finally:
        assert errno_of(os.close, fd) != "EIO"


def answers(mnt: Path) -> None:
    """Fails unless the mount is well, and nothing in it was unexpected."""
    metrics = (mnt / "sys/metrics").read_text()
    crashes = [line for line in metrics.splitlines() if line.startswith("nexusfs_crashes")]
    assert crashes and all(float(line.split()[-1]) == 0 for line in crashes), crashes
    assert (mnt / "proc/1/status").read_text().startswith("Name:")


def quiet(mnt: Path, victim: int) -> None:
    """Ends the agents that random specs started."""
    for pid in pids(mnt) - {victim}:
        errno_of(ctl, mnt, pid, "kill")


@fuzz
@given(parts=pieces(requests(SPEC_KEYS)))
def test_spawn_answers_whatever_is_written(mnt: Path, victim: int, parts: list[bytes]) -> None:
    converse(mnt / "proc/spawn", parts)

    answers(mnt)
    quiet(mnt, victim)


@fuzz
@given(tool=st.sampled_from(TOOLS), parts=pieces(requests(ARGUMENTS)))
def test_tools_answer_whatever_is_written(
    mnt: Path, victim: int, tool: str, parts: list[bytes]
) -> None:
    converse(mnt / "dispatch" / tool, parts)

    answers(mnt)
    quiet(mnt, victim)


@fuzz
@given(
    parts=pieces(st.binary(max_size=100) | st.text().map(lambda t: t.encode("utf-8", "replace")))
)
def test_stdin_answers_whatever_is_written(mnt: Path, victim: int, parts: list[bytes]) -> None:
    with_fsync = os.open(mnt / f"proc/{victim}/stdin", os.O_WRONLY)
    try:
        for part in parts:
            assert errno_of(os.write, with_fsync, part) != "EIO"
            assert errno_of(os.fsync, with_fsync) != "EIO"
    finally:
        assert errno_of(os.close, with_fsync) != "EIO"

    answers(mnt)


def lines() -> st.SearchStrategy[bytes]:
    verbs = st.sampled_from(VERBS).map(str.encode)
    rest = st.binary(max_size=30)
    return st.tuples(verbs, rest).map(lambda pair: b" ".join(pair) + b"\n") | st.binary(max_size=50)


@fuzz
@given(parts=pieces(lines()))
def test_ctl_answers_whatever_is_written(mnt: Path, parts: list[bytes]) -> None:
    agent = idle(mnt)
    try:
        converse(mnt / f"proc/{agent}/ctl", parts)

        answers(mnt)
    finally:
        errno_of(ctl, mnt, agent, "kill")


def test_a_good_request_after_a_refused_piece_acts(mnt: Path) -> None:
    with opened(mnt / "dispatch/read_file") as fd:
        os.write(fd, b'{"a": 1,')
        assert errno_of(os.write, fd, b"{") == "EINVAL" and reply(fd)
        os.write(fd, b'{"path": "/README"}')
        assert json.loads(reply(fd))["success"]


def test_every_tool_of_the_mount_is_fuzzed(mnt: Path) -> None:
    assert set(os.listdir(mnt / "dispatch")) - {".calls", ".last"} == set(TOOLS)


def test_an_agent_that_was_told_nonsense_still_listens(mnt: Path, victim: int) -> None:
    with opened(mnt / f"proc/{victim}/ctl") as fd:
        assert b"term" in reply(fd)

    status: dict[str, Any] = json.loads((mnt / f"proc/{victim}/status.json").read_text())
    assert status["state"] == "running"
