"""Agents that talk to a provider: litellm in its worker, real HTTP, a scripted endpoint."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import NEXUSFS, Mounts
from tests.fuse.shell import (
    PATIENCE_S,
    call,
    ctl,
    daemon,
    end,
    events,
    opened,
    pids,
    read,
    running,
    sh,
    spawn,
    until,
    wait,
    wchan,
)

pytestmark = pytest.mark.fuse

KEY = "sk-a-secret-that-nobody-may-read"
WORDS = [f"word-{number} " for number in range(12)]
CONVERSATIONS: list[dict[str, Any]] = [
    {"match": "two rounds", "turns": [
        {"content": "I look.", **call("list_dir", path="/bin"),
         "usage": {"input_tokens": 100, "output_tokens": 10}},
        {**call("read_file", path="/README", limit=1),
         "usage": {"input_tokens": 200, "output_tokens": 20}},
        {"content": "One agent is installed.", "usage": {"input_tokens": 300, "output_tokens": 30}},
    ]},
    {"match": "slowly", "turns": [{"content": "".join(WORDS), "token_delay_s": 0.05}]},
    {"match": "for ever", "turns": [{"content": "word " * 10_000, "token_delay_s": 0.05}]},
    {"match": "busy", "turns": [
        {"content": "at last", "status": 429, "retry_after_s": 0.2, "times": 2}]},
    {"match": "waiting", "turns": [
        {"content": "at last", "status": 429, "retry_after_s": 60, "times": 1}]},
    {"match": "broken", "turns": [{"content": "at last", "status": 500, "times": 1}]},
    {"match": "locked", "turns": [{"error": {"message": "wrong key", "status": 401}}]},
    {"match": "refused", "turns": [{"error": {"message": "no such thing", "status": 400}}]},
    {"match": "cut", "turns": [{"content": "only a part of it", "cut_after": 2}]},
    {"match": "hang", "turns": [{"hang": True}]},
    {"match_last": "say ", "turns": [{"content": "said"}]},
]  # fmt: skip


@contextmanager
def mock_llm(folder: Path, script: Any) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """A scripted endpoint: its api_base, and what it was asked so far."""
    (folder / "script.json").write_text(json.dumps(script))
    log = folder / "log.jsonl"
    with running(
        folder, NEXUSFS, "mock-llm", "--script", "script.json", "--port", "0", "--log", str(log)
    ) as process:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        yield address, lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def endpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    with mock_llm(tmp_path_factory.mktemp("llm"), {"conversations": CONVERSATIONS}) as made:
        yield made


@pytest.fixture(scope="module")
def unused(mounts: Mounts, endpoint: tuple[str, Any]) -> dict[str, Any]:
    """What a fresh mount looks like from outside, before any model was called."""
    mnt = mounts.mount(env={"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": endpoint[0]})
    pid = daemon(mnt)
    done = spawn(mnt, task="hello")
    wait(mnt, done)
    status = Path(f"/proc/{pid}/status").read_text()
    rss_kib = int(status.partition("VmRSS:")[2].split()[0])
    return {"mnt": mnt, "rss_mib": rss_kib / 1024, "children": children(pid)}


@pytest.fixture(scope="module")
def mnt(unused: dict[str, Any]) -> Path:
    path: Path = unused["mnt"]
    return path


@pytest.fixture(scope="module")
def ask(mnt: Path, endpoint: tuple[str, Any]) -> Callable[..., int]:
    """Spawns an agent whose model is behind the endpoint."""

    def start(task: str, **spec: Any) -> int:
        settings = {"api_base": endpoint[0]}
        return spawn(mnt, model="openai/any", task=task, model_settings=settings, **spec)

    return start


def children(pid: int) -> list[int]:
    """The children of a process of the host."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return [int(child) for child in found]


def of_type(mnt: Path, pid: int, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(mnt, pid) if event["type"] == kind]


def attempts(endpoint: tuple[str, Any], task: str) -> list[dict[str, Any]]:
    """What the endpoint was asked by agents with that task."""
    return [line for line in endpoint[1]() if task in json.dumps(line["request"]["messages"])]


# -- before any call


def test_a_mount_needs_less_than_80_mb_and_no_worker(unused: dict[str, Any]) -> None:
    assert unused["rss_mib"] < 80
    assert unused["children"] == []


# -- a conversation


def test_two_rounds_of_tool_calls_over_http(
    mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any]
) -> None:
    pid = ask("two rounds please")

    assert wait(mnt, pid) == f"{pid} 0 done"
    assert read(mnt, pid, "result") == "One agent is installed.\n"
    results = of_type(mnt, pid, "tool_result")
    assert [result["name"] for result in results] == ["list_dir", "read_file"]
    assert "assistant.md" in results[0]["message"]["content"]
    usage = dict(line.split() for line in read(mnt, pid, "usage").splitlines())
    assert (usage["turns"], usage["model_calls"], usage["tool_calls"]) == ("2", "3", "2")
    assert (usage["input_tokens"], usage["output_tokens"]) == ("600", "60")
    assert usage["cost_usd"] == "unknown"
    asked = attempts(endpoint, "two rounds")
    assert [line["outcome"] for line in asked] == ["done"] * 3
    assert asked[0]["authorization"].startswith("Bearer ")
    assert {t["function"]["name"] for t in asked[0]["request"]["tools"]} >= {"grep", "read_file"}


def test_text_arrives_in_events_pipe_token_by_token(mnt: Path, ask: Callable[..., int]) -> None:
    pid = ask("speak slowly")

    with running(mnt, "cat", f"proc/{pid}/events_pipe") as process:
        lines = [
            json.loads(line) for line in process.communicate(timeout=PATIENCE_S)[0].splitlines()
        ]

    pieces = [line["text"] for line in lines if line["type"] == "text_delta"]
    replies = [line for line in lines if line["type"] == "model_reply"]
    assert "".join(pieces) == "".join(WORDS) and len(pieces) > 3
    assert replies[0]["message"]["content"] == "".join(WORDS)
    assert "text_delta" not in read(mnt, pid, "events")


def test_text_is_in_stdout_pipe_before_the_answer_is_complete(
    mnt: Path, ask: Callable[..., int]
) -> None:
    pid = ask("speak slowly again")

    with opened(mnt / f"proc/{pid}/stdout_pipe", os.O_RDONLY) as fd:
        first = os.read(fd, 100).decode()
        alive = read(mnt, pid, "exit_code")

    assert "".join(WORDS).startswith(first) and len(first) < 60
    assert alive == ""
    end(mnt, pid)


@pytest.mark.parametrize("verb", ["kill", "term", "int"])
def test_a_verb_in_mid_stream_ends_it_at_once_and_hangs_up(
    mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any], verb: str
) -> None:
    pid = ask(f"talk for ever {verb}")
    with opened(mnt / f"proc/{pid}/stdout_pipe", os.O_RDONLY) as fd:
        os.read(fd, 100)

    began = time.monotonic()
    ctl(mnt, pid, verb)
    said = wait(mnt, pid)
    took_s = time.monotonic() - began

    assert said.split()[1] == {"kill": "-9", "term": "-15", "int": "-2"}[verb]
    assert took_s < 1.5  # generous: the contract says 100 ms
    until(lambda: [a["outcome"] for a in attempts(endpoint, f"ever {verb}")] == ["disconnected"])


def test_a_429_is_retried_and_the_retries_are_told(
    mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any]
) -> None:
    pid = ask("busy now")

    assert wait(mnt, pid) == f"{pid} 0 done"
    assert read(mnt, pid, "result") == "at last\n"
    assert len(attempts(endpoint, "busy now")) == 3
    retries = of_type(mnt, pid, "model_retry")
    assert len(retries) == 2 and all(retry["delay_s"] >= 0.2 for retry in retries)


def test_status_says_why_a_call_is_tried_again(mnt: Path, ask: Callable[..., int]) -> None:
    pid = ask("waiting now")

    until(lambda: of_type(mnt, pid, "model_retry"))

    reason = dict(line.split(":\t") for line in read(mnt, pid, "status").splitlines())["Reason"]
    assert reason.startswith("openai/any: ") and "429" in reason
    assert "next attempt in 6" in reason or "next attempt in 7" in reason
    assert wchan(mnt, pid) == "model"
    ctl(mnt, pid, "kill")
    assert "Reason:\tkilled\n" in read(mnt, pid, "status")


def test_a_500_is_retried(mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any]) -> None:
    pid = ask("broken now")

    assert wait(mnt, pid) == f"{pid} 0 done"
    assert len(attempts(endpoint, "broken now")) == 2


@pytest.mark.parametrize(("task", "says"), [("locked now", "wrong key"), ("refused now", "thing")])
def test_a_401_and_a_400_are_not_retried(
    mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any], task: str, says: str
) -> None:
    pid = ask(task)

    said = wait(mnt, pid)

    assert said.split()[1] == "1" and says in said
    assert len(attempts(endpoint, task)) == 1
    assert of_type(mnt, pid, "model_retry") == []
    assert KEY not in read(mnt, pid, "events")


def test_a_fallback_answers_when_nobody_is_there(mnt: Path) -> None:
    pid = spawn(
        mnt, model="openai/any", task="hello", fallback_models=["offline/echo"],
        model_settings={"api_base": "http://127.0.0.1:9/v1", "timeout": 2},
    )  # fmt: skip

    status = read(mnt, pid, "status")
    end(mnt, pid)

    assert "R (running)" in status


def test_a_chat_over_http_keeps_its_history(
    mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any]
) -> None:
    pid = ask("", mode="chat")
    for number in (1, 2):
        (mnt / f"proc/{pid}/stdin").write_text(f"say {number} of {pid}")
        until(lambda: read(mnt, pid, "stdout").count("said") == number)  # noqa: B023
    end(mnt, pid)

    asked = attempts(endpoint, f"of {pid}")
    roles = [message["role"] for message in asked[-1]["request"]["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_many_agents_stream_at_once(mnt: Path, ask: Callable[..., int]) -> None:
    agents = [ask(f"speak slowly {number}") for number in range(12)]

    began = time.monotonic()
    assert [wait(mnt, pid) for pid in agents] == [f"{pid} 0 done" for pid in agents]

    assert time.monotonic() - began < 12 * 12 * 0.05  # side by side, not one after the other


def test_wchan_is_model_while_it_is_asked(mnt: Path, ask: Callable[..., int]) -> None:
    pid = ask("hang")

    until(lambda: wchan(mnt, pid) == "model")
    end(mnt, pid)


# -- the processes


def test_the_kernel_never_imports_litellm(mnt: Path, ask: Callable[..., int]) -> None:
    wait(mnt, ask("two rounds, and look at the process"))

    kernel = Path(f"/proc/{daemon(mnt)}/maps").read_text()
    workers = [Path(f"/proc/{child}/maps").read_text() for child in children(daemon(mnt))]

    assert "_tiktoken" not in kernel and "fastuuid" not in kernel
    assert any("_tiktoken" in maps or "fastuuid" in maps for maps in workers)


def test_keys_are_in_no_environment_and_in_no_file(mnt: Path, ask: Callable[..., int]) -> None:
    wait(mnt, ask("say hello once"))
    pid = daemon(mnt)

    environment = Path(f"/proc/{pid}/environ").read_bytes()
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    shown = (mnt / "sys/config").read_text() + (mnt / "sys/models").read_text()

    assert KEY.encode() not in environment + command
    assert KEY not in shown
    found = subprocess.run(
        ["grep", "-rlF", KEY, str(mnt / "sys"), str(mnt / "var")], capture_output=True, check=False
    )
    assert found.stdout == b""


def test_a_key_is_sent_where_the_environment_says_and_to_no_other_address(
    mnt: Path, ask: Callable[..., int], endpoint: tuple[str, Any]
) -> None:
    other = {"api_base": endpoint[0].replace("127.0.0.1", "localhost")}

    wait(mnt, ask("say the magic word"))
    wait(mnt, spawn(mnt, model="openai/any", task="say it elsewhere", model_settings=other))

    (asked,) = attempts(endpoint, "magic word")
    (elsewhere,) = attempts(endpoint, "it elsewhere")
    assert asked["authorization"] == f"Bearer {KEY}"[:10]
    assert elsewhere["authorization"] == "Bearer no-key"[:10]


def test_a_key_in_a_spec_is_refused(mnt: Path) -> None:
    before = pids(mnt)

    done = sh(mnt, 'echo \'{"model": "openai/any", "model_settings": {"api_key": "sk-x"}}\' '
                   "> proc/spawn")  # fmt: skip

    assert done.returncode != 0
    assert pids(mnt) == before


def test_a_worker_that_dies_is_started_again_and_the_mount_answers_meanwhile(
    mnt: Path, ask: Callable[..., int]
) -> None:
    wait(mnt, ask("say hello"))
    (worker,) = children(daemon(mnt))
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in children(daemon(mnt)))
    pid = ask("say hello while loading")

    began = time.monotonic()
    for _ in range(20):
        read(mnt, pid, "status")
    took_s = time.monotonic() - began

    assert took_s < 2.0
    assert wait(mnt, pid) == f"{pid} 0 done"
    assert children(daemon(mnt)) not in ([], [worker])


def test_no_worker_outlives_its_kernel(mnt: Path, ask: Callable[..., int]) -> None:
    """The last of the module, for its mount is dead then."""
    wait(mnt, ask("say bye"))
    workers = children(daemon(mnt))

    os.kill(daemon(mnt), signal.SIGKILL)

    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert workers
