"""Limits as their files show them and agents meet them."""

from collections.abc import AsyncIterator
from errno import EDQUOT
from pathlib import Path
from typing import Any

import pytest

from nexusfs.contracts.errors import InvalidError, NotPermittedError, QuotaError
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.proc.process import Process
from tests.kernel_fixture import ROOT, events_of
from tests.unit.services.running import World, call, events, world

LOOK = call("list_dir", path="/")


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def how(w: World, process: Process) -> tuple[int, str, str]:
    end = await w.end_of(process)
    return end.exit_code, end.reason, (await w.text(f"/proc/{process.pid}/result")).strip()


async def usage(w: World, pid: int) -> dict[str, str]:
    lines = (await w.text(f"/proc/{pid}/usage")).splitlines()
    return dict(line.split(" ") for line in lines)


@pytest.mark.parametrize("name", ["turns", "tool_calls"])
async def test_at_a_limit_an_agent_answers_once_more_and_its_end_names_it(
    w: World, name: str
) -> None:
    agent = await w.play(LOOK, LOOK, {"content": "in short"}, limits={name: 2})

    assert await how(w, agent) == (3, f"{name} (2) of agent {agent.pid} reached", "in short")
    told = events(agent, "notice")[0]["message"]["content"]
    assert told.startswith(f"A limit: {name} (2)")


async def test_an_agent_that_needs_less_than_its_limits_is_done(w: World) -> None:
    agent = await w.play(LOOK, {"content": "in short"}, limits={"turns": 2, "tool_calls": 2})

    assert await how(w, agent) == (0, "done", "in short")


async def test_where_no_closing_answer_fits_the_last_words_are_the_result(w: World) -> None:
    first = {**LOOK, "content": "I look.", "usage": {"input_tokens": 900, "output_tokens": 200}}
    agent = await w.play(first, {"content": "never"}, limits={"tokens": 1000})

    code, reason, result = await how(w, agent)

    assert (code, result) == (3, "I look.")
    assert reason.startswith(f"tokens (1000) of agent {agent.pid} reached")
    assert len(events(agent, "model_call")) == 1


async def test_a_providers_excess_is_booked_and_reported(w: World) -> None:
    greedy = {**LOOK, "usage": {"input_tokens": 9000, "output_tokens": 1000}}
    agent = await w.play(greedy, {"content": "never"}, limits={"tokens": 5000})

    assert (await how(w, agent))[0] == 3
    (over,) = events(agent, "excess")
    assert 0 < over["tokens"] <= 10_000 and agent.account.used.tokens == 10_000
    assert (await usage(w, agent.pid))["remaining.tokens"] == "0"


async def test_a_call_over_the_limit_fails_and_its_sibling_does_not(w: World) -> None:
    both = {"tool_calls": [*LOOK["tool_calls"], *LOOK["tool_calls"]]}
    agent = await w.play(both, {"content": "one of two"}, limits={"tool_calls": 1})

    await w.end_of(agent)

    errors = [event["error"] for event in events(agent, "tool_result")]
    assert errors[0] is None and errors[1].startswith("tool_calls (1)")
    assert len(events(agent, "tool_call")) == 1


async def test_a_limit_above_stops_the_child_too(w: World) -> None:
    top = await w.play(mode="chat", task="", limits={"turns": 1})
    child = await w.play(
        LOOK, {"content": "so far"}, cred=top.cred.through("tool"),
        model_settings={}, limits={},
    )  # fmt: skip

    assert await how(w, child) == (3, f"turns (1) of agent {top.pid} reached", "so far")
    assert (await usage(w, top.pid))["subtree.turns"] == "1"


async def test_a_chat_agent_at_its_limit_ends_too(w: World) -> None:
    agent = await w.play(LOOK, {"content": "bye"}, mode="chat", limits={"turns": 1})

    assert (await how(w, agent))[0] == 3


async def test_an_agent_is_cut_off_when_its_time_is_over(w: World) -> None:
    agent = await w.play({"hang": True}, limits={"wall_seconds": 0.05})
    child = await w.play(mode="chat", task="", cred=agent.cred.through("tool"))

    assert (await how(w, agent))[:2] == (3, f"wall_seconds (0.05) of agent {agent.pid} reached")
    assert (await w.end_of(child)).exit_code in (3, -9)


async def test_less_time_is_less_time_at_once(w: World) -> None:
    agent = await w.play({"hang": True}, limits={"wall_seconds": 1000})

    await w.files.write_file(f"/proc/{agent.pid}/limits/wall_seconds", b"0.1\n")

    assert (await how(w, agent))[0] == 3


async def test_a_spawn_and_a_tool_call_over_the_limit_are_edquot(w: World) -> None:
    agent = await w.play(mode="chat", task="", limits={"tool_calls": 0, "children": 0})
    as_agent = agent.cred.through("tool")

    with pytest.raises(QuotaError, match="tool_calls"):
        await w.calls.sys_dispatch(as_agent, "list_dir", {})
    with pytest.raises(QuotaError, match="tool_calls"):
        await w.calls.sys_proc_spawn(as_agent, {"model": "offline/echo"})
    lines = events_of((await w.text("/var/log/audit.jsonl")).encode().splitlines())
    assert [line["op"] for line in lines if line.get("errno") == EDQUOT] == ["dispatch", "spawn"]


async def test_usage_says_what_is_left_of_each_limit(w: World) -> None:
    limits: dict[str, Any] = {"turns": 5, "tokens": 1000, "depth": 2, "children": 3}
    agent = await w.play({"content": "x", "usage": {"input_tokens": 30, "output_tokens": 4}},
                         mode="chat", limits=limits)  # fmt: skip
    await w.play(mode="chat", task="", cred=agent.cred.through("tool"))
    while not events(agent, "model_reply"):
        await agent.events.changed()

    found = await usage(w, agent.pid)

    left = {key.split(".")[1]: value for key, value in found.items() if "remaining" in key}
    assert left == {
        "turns": "5", "tokens": "966", "depth": "2", "children": "2", "cost_usd": "5",
    }  # fmt: skip


async def test_a_limits_file_is_written_as_it_is_read(w: World) -> None:
    agent = await w.play(mode="chat", task="", limits={"tokens": 1000})
    path = f"/proc/{agent.pid}/limits"

    for text in ("500\n", "2000\n", "max\n"):
        await w.files.write_file(f"{path}/tokens", text.encode())
        assert await w.text(f"{path}/tokens") == text
    await w.files.write_file(f"{path}/cost_usd", b"2.5\n")
    assert await w.text(f"{path}/cost_usd") == "2.5\n"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "1e3", "1 2", "nan", "9" * 20])
async def test_what_is_no_number_is_refused(w: World, text: str) -> None:
    agent = await w.play(mode="chat", task="")

    with pytest.raises(InvalidError, match="tokens takes a whole number, or max"):
        await w.files.write_file(f"/proc/{agent.pid}/limits/tokens", f"{text or '-'}\n".encode())


async def test_an_agent_does_not_raise_its_own_limits(w: World) -> None:
    agent = await w.play(mode="chat", task="", limits={"tokens": 10})
    itself = BoundSyscalls(w.calls, agent.cred.through("tool"))

    with pytest.raises(NotPermittedError):
        await itself.write_file(f"/proc/{agent.pid}/limits/tokens", b"max\n")
    assert await w.text(f"/proc/{agent.pid}/limits/tokens") == "10\n"


async def test_the_day_of_a_user_is_a_limit_of_the_configuration(tmp_path: Path) -> None:
    async with world(tmp_path, limits={"cost_usd_per_user_day": 0}) as w:
        with pytest.raises(QuotaError, match=r"cost_usd \(0\) of user 0 for the day"):
            await w.calls.sys_proc_spawn(ROOT, {"model": "offline/echo"})
