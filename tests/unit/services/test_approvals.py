"""Calls that rules deny, or ask a person about, and what comes of the answer."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import (
    AccessError,
    InvalidError,
    KernelError,
    NotFoundError,
    NotPermittedError,
)
from nexusfs.contracts.node import Change
from nexusfs.contracts.tool import LABELS, PRIVATE_DATA, Tool, ToolContext, tool
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.proc.process import Process
from tests.kernel_fixture import ALICE, BOB, ROOT, events_of
from tests.unit.services.running import World, call, events, happened, world

WRITE = call("write_file", path="/made", content="x")
ASK: dict[str, Any] = {"rules": {"ask": ["write_file"]}}


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def asked(w: World, *turns: dict[str, Any], **fields: Any) -> Process:
    """An agent whose first question waits."""
    agent = await w.play(*(turns or (WRITE, {"content": "done"})), **{**ASK, **fields})
    await happened(agent, "question")
    while agent.wchan != "approval":
        await trio.sleep(0)
    return agent


def results(agent: Process) -> list[str]:
    return [event["message"]["content"] for event in events(agent, "tool_result")]


async def is_there(w: World, path: str) -> bool:
    try:
        await w.files.stat(path)
    except NotFoundError:
        return False
    return True


# Rules


@pytest.mark.parametrize(
    ("fields", "effect"),
    [
        ({}, "allow"),
        ({"rules": {"deny": ["write_file"]}}, "deny"),
        ({"rules": {"deny": ["write_*"], "ask": ["*"], "allow": ["*"]}}, "deny"),
        ({"rules": {"ask": ["*"], "allow": ["write_file"]}}, "ask"),
        ({"rules": {"deny": ["write_file(/other*)"]}}, "allow"),
        ({"rules": {"deny": ["write_file(/ma*)"]}}, "deny"),
        ({"rules": {"deny": ["*(x)"]}}, "deny"),
        ({"permission_mode": "deny"}, "deny"),
        ({"permission_mode": "ask"}, "ask"),
        ({"permission_mode": "deny", "rules": {"allow": ["write_file(/made)"]}}, "allow"),
        ({"permission_mode": "deny", "rules": {"allow": ["write_file(x)"]}}, "deny"),
        ({"permission_mode": "ask", "rules": {"deny": ["exec"]}}, "ask"),
    ],
)
async def test_rules_are_deny_then_ask_then_allow(
    w: World, fields: dict[str, Any], effect: str
) -> None:
    agent = await w.play(WRITE, {"content": "done"}, **fields)
    while not agent.state.ended and agent.wchan != "approval":
        await trio.sleep(0)

    made = await is_there(w, "/made")

    found = "ask" if events(agent, "question") else "allow" if made else "deny"
    assert found == effect
    if effect == "deny":
        assert results(agent)[0].startswith("error: write_file is denied by a rule of agent 2: ")


async def test_the_mode_lets_tools_that_only_read_run(w: World) -> None:
    agent = await w.play(
        call("list_dir", path="/"), {"content": "done"}, permission_mode="deny"
    )  # fmt: skip

    assert (await w.end_of(agent)).exit_code == 0 and "README" in results(agent)[0]


async def test_the_rules_of_an_agent_bind_what_it_spawns(w: World) -> None:
    top = await w.play(mode="chat", task="", rules={"deny": ["write_file"]})
    child = await w.play(
        WRITE, {"content": "done"}, cred=top.cred.through("tool"),
        permission_mode="allow", rules={"allow": ["*"]},
    )  # fmt: skip
    await w.end_of(child)

    assert f"a rule of agent {top.pid}" in results(child)[0]


async def test_a_denied_call_is_eacces_to_a_program_and_in_the_audit_log(w: World) -> None:
    agent = await w.play(mode="chat", task="", rules={"deny": ["write_file"]})

    with pytest.raises(AccessError, match="deny write_file"):
        await w.calls.sys_dispatch(
            agent.cred.through("tool"), "write_file", {"path": "/made", "content": ""}
        )
    lines = events_of((await w.text("/var/log/audit.jsonl")).encode().splitlines())
    assert [line["target"] for line in lines if line["event"] == "refused"] == ["write_file"]


async def policy(w: World, text: str, mode: int = 0o644) -> None:
    await w.files.write_file("/etc/policy.json", text.encode())
    await w.files.sys_setattr("/etc/policy.json", Change(mode=mode))


async def test_the_policy_binds_every_agent_as_soon_as_it_is_written(w: World) -> None:
    agent = await w.play(mode="chat", task="")
    as_agent = agent.cred.through("tool")
    arguments = {"path": "/made", "content": ""}
    await w.calls.sys_dispatch(as_agent, "write_file", arguments)
    await policy(w, '{"deny": ["write_file"]}')

    with pytest.raises(AccessError, match="the policy of /etc: deny write_file"):
        await w.calls.sys_dispatch(as_agent, "write_file", arguments)
    assert (await w.calls.sys_dispatch(ROOT, "write_file", arguments)).success


@pytest.mark.parametrize(
    ("text", "mode", "at_fault"),
    [
        ('{"deny": []}', 0o666, "writable by nobody else"),
        ('{"dny": []}', 0o644, "dny"),
        ("{", 0o644, "policy.json"),
    ],
)
async def test_a_policy_that_cannot_be_trusted_lets_no_call_through(
    w: World, text: str, mode: int, at_fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await w.play(mode="chat", task="")
    await policy(w, text, mode)

    with pytest.raises(AccessError, match=at_fault):
        await w.calls.sys_dispatch(agent.cred.through("tool"), "list_dir", {})
    caplog.clear()


# Questions


async def test_a_question_says_what_is_asked_and_why(w: World) -> None:
    agent = await asked(w, name="writer")

    question = json.loads(await w.text(f"/proc/{agent.pid}/approvals/1"))

    assert (question["agent"], question["tool"]) == ("writer", "write_file")
    assert question["arguments"] == {"path": "/made", "content": "x"}
    assert question["why"] == f"a rule of agent {agent.pid}: ask write_file"
    assert "approval" in await w.text(f"/proc/{agent.pid}/wchan")
    assert not await is_there(w, "/made")


async def test_approve_lets_the_call_run(w: World) -> None:
    agent = await asked(w)

    await w.files.write_file(f"/proc/{agent.pid}/approvals/1", b"approve\n")

    assert (await w.end_of(agent)).exit_code == 0
    assert await w.text("/made") == "x"
    assert not await w.files.list_dir(f"/proc/{agent.pid}/approvals")


async def test_deny_tells_the_model_why(w: World) -> None:
    agent = await asked(w)

    await w.files.write_file(f"/proc/{agent.pid}/approvals/1", b"deny not today\n")

    assert (await w.end_of(agent)).exit_code == 0
    assert results(agent) == ["error: write_file is denied by a person: not today"]
    assert not await is_there(w, "/made")


async def test_modify_runs_the_call_with_other_arguments(w: World) -> None:
    agent = await asked(w)

    answer = b'modify {"path": "/other", "content": "y"}\n'
    await w.files.write_file(f"/proc/{agent.pid}/approvals/1", answer)

    await w.end_of(agent)
    assert (await is_there(w, "/made"), await w.text("/other")) == (False, "y")


@pytest.mark.parametrize(
    "answer",
    ["yes", "approve it", "modify", "modify {", "modify []", 'modify {"pth": 1}', "approve\0"],
)
async def test_an_answer_that_is_none_leaves_the_question(w: World, answer: str) -> None:
    agent = await asked(w)

    with pytest.raises(InvalidError):
        await w.files.write_file(f"/proc/{agent.pid}/approvals/1", answer.encode() + b"\n")
    assert agent.wchan == "approval"


async def test_only_one_answer_counts(w: World) -> None:
    agent = await asked(w)
    await w.calls.sys_proc_answer(ROOT, agent.pid, 1, "deny")

    with pytest.raises(NotFoundError):
        await w.calls.sys_proc_answer(ROOT, agent.pid, 1, "approve")


async def test_an_agent_answers_neither_its_own_question_nor_a_childs(w: World) -> None:
    top = await w.play(mode="chat", task="", model="offline/echo")
    child = await w.play(WRITE, cred=top.cred.through("tool"), **ASK)
    await happened(child, "question")

    for cred in (top.cred, child.cred):
        bound = BoundSyscalls(w.calls, cred.through("tool"))
        with pytest.raises(NotPermittedError):
            await bound.write_file(f"/proc/{child.pid}/approvals/1", b"approve\n")
        assert await bound.list_dir("/proc/1/approvals") == []
    assert not events(child, "answer")


async def test_everybody_sees_his_own_questions_in_one_place(w: World) -> None:
    of_root = await asked(w)
    of_alice = (await w.calls.sys_proc_spawn(
        ALICE, {"model": "offline/demo", "task": "list /bin", "rules": {"ask": ["*"]}}
    )).pid  # fmt: skip
    await happened(w.process(of_alice), "question")

    async def seen(cred: Any) -> set[str]:
        entries = await BoundSyscalls(w.calls, cred).list_dir("/proc/1/approvals")
        return {entry.name.decode() for entry in entries}

    assert await seen(ROOT) == {f"{of_root.pid}.1", f"{of_alice}.1"}
    assert (await seen(ALICE), await seen(BOB)) == ({f"{of_alice}.1"}, set())
    with pytest.raises(KernelError):
        await BoundSyscalls(w.calls, BOB).read_file(f"/proc/1/approvals/{of_alice}.1")
    await BoundSyscalls(w.calls, ALICE).write_file(f"/proc/1/approvals/{of_alice}.1", b"approve\n")
    await w.end_of(w.process(of_alice))


@pytest.mark.parametrize("verb", ["int", "kill"])
async def test_calls_that_waited_for_an_answer_and_were_cut_off_are_known_not_to_have_run(
    w: World, verb: str
) -> None:
    behind = call("edit_file", path="/made", old="x", new="y")["tool_calls"]
    agent = await asked(w, {"tool_calls": [*WRITE["tool_calls"], *behind]}, mode="chat")

    await w.files.write_file(f"/proc/{agent.pid}/ctl", f"{verb}\n".encode())
    while len(results(agent)) < 2:
        await trio.sleep(0)

    never = "interrupted: the call waited for a person's answer, and never ran"
    assert results(agent) == [never, never]
    assert not await is_there(w, "/made")


async def test_other_agents_and_earlier_calls_go_on_while_one_waits(w: World) -> None:
    both = {"tool_calls": [*call("list_dir", path="/")["tool_calls"], *WRITE["tool_calls"]]}
    agent = await asked(w, both, {"content": "done"})
    other = await w.play({"content": "hello"})

    assert (await w.end_of(other)).exit_code == 0
    assert len(results(agent)) == 1 and agent.wchan == "approval"


async def test_all_questions_of_a_turn_are_asked_at_once(w: World) -> None:
    both = {"tool_calls": [*WRITE["tool_calls"], *WRITE["tool_calls"]]}
    agent = await asked(w, both, {"content": "done"})

    assert len(events(agent, "question")) == 2
    await w.calls.sys_proc_answer(ROOT, agent.pid, 2, "deny")
    await w.calls.sys_proc_answer(ROOT, agent.pid, 1, "approve")
    await w.end_of(agent)
    assert [text.split()[0] for text in results(agent)] == ["wrote", "error:"]


@pytest.mark.parametrize("answered", ["before", "after"])
async def test_the_wait_survives_a_restart(tmp_path: Path, answered: str) -> None:
    async with world(tmp_path) as w:
        agent = await asked(w)
        if answered == "before":
            agent.record(
                "answer", question=1, verdict="approve", by=0, reason="",
                arguments={"path": "/made", "content": "x"},
            )  # fmt: skip
    async with world(tmp_path) as w:
        same = w.process(agent.pid)
        if answered == "after":
            while same.wchan != "approval":
                await trio.sleep(0)
            await w.calls.sys_proc_answer(ROOT, same.pid, 1, "approve")
        end = await w.end_of(same)

        assert (end.exit_code, await w.text("/made")) == (0, "x")
        assert len(events(same, "question")) == 1


async def test_a_question_goes_with_its_agent(w: World) -> None:
    agent = await asked(w)

    await w.calls.sys_proc_kill(ROOT, agent.pid)

    assert await w.files.list_dir("/proc/1/approvals") == []
    with pytest.raises(NotFoundError):
        await w.calls.sys_proc_answer(ROOT, agent.pid, 1, "approve")


async def test_a_program_that_calls_a_tool_waits_too(w: World) -> None:
    agent = await w.play(mode="chat", task="", **ASK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            w.calls.sys_dispatch, agent.cred.through("tool"), "write_file",
            {"path": "/made", "content": "x"},
        )  # fmt: skip
        await happened(agent, "question")
        before = await is_there(w, "/made")
        await w.calls.sys_proc_answer(ROOT, agent.pid, 1, "approve")

    assert (before, await w.text("/made")) == (False, "x")
    assert await w.files.list_dir("/proc/1/approvals") == []


async def test_a_question_of_a_caller_who_gives_up_is_taken_back(w: World) -> None:
    agent = await w.play(mode="chat", task="", **ASK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            w.calls.sys_dispatch, agent.cred.through("tool"), "write_file",
            {"path": "/made", "content": "x"},
        )  # fmt: skip
        await happened(agent, "question")
        nursery.cancel_scope.cancel()

    assert events(agent, "answer")[0]["verdict"] == "withdrawn"
    assert await w.files.list_dir("/proc/1/approvals") == [] and not await is_there(w, "/made")


async def test_nobody_is_asked_about_a_call_that_cannot_run(w: World) -> None:
    agent = await w.play(call("write_file", pth="/made"), {"content": "done"}, **ASK)

    await w.end_of(agent)

    assert not events(agent, "question") and "do not fit" in results(agent)[0]


async def test_an_agent_runs_no_tool_as_its_child(w: World) -> None:
    top = await w.play(mode="chat", task="", tools=["list_dir"], delegate={"tools": ["*"]})
    child = await w.play(mode="chat", task="", cred=top.cred.through("tool"))
    bound = BoundSyscalls(w.calls, top.cred.through("tool"))

    with pytest.raises(NotPermittedError):
        await bound.write_file(f"/proc/{child.pid}/dispatch/write_file", b'{"path": "/made"}')


# Labels


def labelled(*labels: str) -> Tool:
    @tool(name="send_" + "_".join(labels), labels=labels)
    async def send(ctx: ToolContext) -> str:
        """Do something."""
        return "sent"

    return send


@pytest.mark.parametrize(
    ("tools", "fields", "asks"),
    [
        (["list_dir", "send_untrusted_input", "send_external_effect"], {}, True),
        (["list_dir", "send_external_effect"], {}, False),
        (["send_untrusted_input", "send_external_effect"], {}, False),
        (["list_dir", "send_untrusted_input", "send_external_effect"], {"mode": "chat"}, False),
    ],
)
async def test_an_unattended_agent_with_all_three_labels_asks_before_it_sends(
    w: World, tools: list[str], fields: dict[str, Any], asks: bool
) -> None:
    for label in LABELS - {PRIVATE_DATA}:
        w.kernel.tools.register(labelled(label))
    agent = await w.play(
        call("send_external_effect"), {"content": "done"}, tools=tools, **fields
    )  # fmt: skip
    await happened(agent, "question" if asks else "tool_result")

    assert bool(events(agent, "question")) == asks


async def test_the_configuration_decides_about_all_three_labels(tmp_path: Path) -> None:
    async with world(tmp_path, rights={"all_three_labels": "deny"}) as w:
        w.kernel.tools.register(labelled(*sorted(LABELS)))
        name = "send_" + "_".join(sorted(LABELS))
        agent = await w.play(call(name), {"content": "done"})
        await w.end_of(agent)

        assert "its tools together: external_effect, private_data" in results(agent)[0]


async def test_programs_have_all_three_labels_when_they_have_the_network(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        without = json.loads(await w.text("/dispatch/exec"))["labels"]
    async with world(tmp_path, sandbox={"network": True}) as w:
        with_it = json.loads(await w.text("/dispatch/exec"))["labels"]

    assert (without, with_it) == ([PRIVATE_DATA], sorted(LABELS))
