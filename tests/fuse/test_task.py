"""A real task, end to end: clone, edit, test and commit, with a denial and an approval in it."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import call, events, read, request, until, wait
from tests.fuse.test_models import mock_llm

pytestmark = pytest.mark.fuse

BROKEN = "def add(a, b):\n    return a - b\n"
TEST = (
    "import unittest\nfrom calc import add\n\n\n"
    "class Adds(unittest.TestCase):\n    def test_adds(self):\n"
    "        self.assertEqual(add(2, 3), 5)\n"
)
GIT = "git -c user.name=worker -c user.email=worker@example.org -c safe.directory=*"
TURNS = [
    call("exec", command=f"{GIT} clone -q /source /work/copy && ls /work/copy"),
    call("exec", command="python3 -B -m unittest 2>&1 | tail -n 1", cwd="/work/copy"),
    call("edit_file", path="/work/copy/calc.py", old="a - b", new="a + b"),
    call("exec", command="python3 -B -m unittest 2>&1 | tail -n 1", cwd="/work/copy"),
    call("exec", command="rm -rf /source", cwd="/work/copy"),
    call("exec", command=f"{GIT} commit -qam 'Add, and do not subtract' && echo committed",
         cwd="/work/copy"),
    {"content": "It adds now."},
]  # fmt: skip


def git(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=p", "-c", "user.email=p@example.org", *words],
        cwd=cwd, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def mnt(mounts: Mounts) -> Path:
    """A repository with a fault, and rules for all agents."""
    mnt = mounts.mount("task", env={"OPENAI_API_KEY": "sk-none"})
    source = mnt / "source"
    source.mkdir()
    (mnt / "work").mkdir()
    git("init", "-q", ".", cwd=source)
    (source / "calc.py").write_text(BROKEN)
    (source / "test_calc.py").write_text(TEST)
    git("add", ".", cwd=source)
    git("commit", "-qm", "Subtract", cwd=source)
    policy = {"deny": ["exec(*rm -rf*)"], "ask": ["exec(*git * commit *)"]}
    (mnt / "etc/policy.json").write_text(json.dumps(policy))
    return mnt


def test_an_agent_clones_edits_tests_and_commits(mnt: Path, tmp_path: Path) -> None:
    with mock_llm(tmp_path, {"turns": TURNS}) as (base, asked):
        failed, text = request(mnt / "proc/spawn", {
            "name": "worker", "model": "openai/any", "model_settings": {"api_base": base},
            "task": "make the test pass and commit it", "tools": ["exec", "edit_file"],
            "paths": [{"path": "/work"}, {"path": "/source", "access": "r"}],
            "limits": {"turns": 10, "tokens": 100_000},
        })  # fmt: skip
        assert not failed, text
        pid = int(text)
        until(lambda: read(mnt, pid, "wchan") == "approval\n")
        (question,) = (mnt / "proc/1/approvals").iterdir()
        shown = json.loads(question.read_text())
        question.write_text("approve\n")

        assert wait(mnt, pid) == f"{pid} 0 done"
        requests = asked()

    assert shown["tool"] == "exec" and "commit" in shown["arguments"]["command"]
    assert read(mnt, pid, "result") == "It adds now.\n"
    results = [
        one["message"]["content"] for one in events(mnt, pid) if one["type"] == "tool_result"
    ]
    assert "calc.py" in results[0] and results[1].startswith("FAILED")
    assert results[3].startswith("OK\n")
    assert results[4] == "error: exec is denied by the policy of /etc: deny exec(*rm -rf*)"
    assert results[5] == "committed\n[exit code 0]"
    copy = mnt / "work/copy"
    assert git("log", "-1", "--format=%an: %s", cwd=copy) == "worker: Add, and do not subtract\n"
    assert git("status", "--porcelain", cwd=copy) == ""
    assert (mnt / "source/calc.py").read_text() == BROKEN
    assert len(requests) == len(TURNS)
    assert all("max_tokens" in json.dumps(one) for one in requests)
    used = dict(line.split() for line in read(mnt, pid, "usage").splitlines())
    assert used["turns"] == "6" and used["remaining.turns"] == "4" and used["cost_usd"] == "unknown"
