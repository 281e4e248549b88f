"""What others may of somebody's agent, in Python: what the contract lists, and nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import AccessError, KernelError, NotPermittedError
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.proc.process import Process
from tests.kernel_fixture import ALICE, BOB, ROOT
from tests.unit.services.running import World, happened, world

EVERYBODYS = {"status", "status.json", "children", "wchan", "wait", "exit_code"}
"""Source: the contract's list of who reads what of an agent."""
CONTROLS = {
    "ctl": b"kill\n", "stdin": b"hello", "grants": b'{"tools": []}', "limits/tokens": b"1\n",
    "approvals/1": b"approve\n", "dispatch/list_dir": b"{}",
}  # fmt: skip


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
async def agent(w: World) -> Process:
    """Alice's agent, which waits for her answer."""
    rules = {"rules": {"ask": ["*"]}, "model": "offline/demo", "task": "list /bin"}
    agent = w.process((await w.calls.sys_proc_spawn(ALICE, rules)).pid)
    await happened(agent, "question")
    return agent


async def readable(w: World, agent: Process, cred: Credentials) -> set[str]:
    """The files of an agent's directory that somebody may read."""
    bound, found = BoundSyscalls(w.calls, cred), set()
    for entry in await bound.list_dir(f"/proc/{agent.pid}"):
        name = entry.name.decode()
        try:
            st = await bound.stat(f"/proc/{agent.pid}/{name}", follow=False)
            if st.is_dir:
                await bound.list_dir(f"/proc/{agent.pid}/{name}")
            elif st.is_link:
                await bound.sys_readlink(f"/proc/{agent.pid}/{name}")
            elif name.endswith("_pipe") or name == "wait":
                if not await bound.access(f"/proc/{agent.pid}/{name}", 4):
                    continue
            else:
                await bound.read_file(f"/proc/{agent.pid}/{name}")
        except AccessError:
            continue
        found.add(name)
    return found


async def test_everybody_reads_exactly_what_the_contract_lists(w: World, agent: Process) -> None:
    assert await readable(w, agent, BOB) == EVERYBODYS
    assert EVERYBODYS < await readable(w, agent, ALICE) == await readable(w, agent, ROOT)


@pytest.mark.parametrize("name", CONTROLS)
async def test_a_stranger_writes_to_no_control_file(w: World, agent: Process, name: str) -> None:
    before = len(agent.events.data)

    with pytest.raises((AccessError, NotPermittedError)):
        await BoundSyscalls(w.calls, BOB).write_file(f"/proc/{agent.pid}/{name}", CONTROLS[name])
    assert len(agent.events.data) == before


async def test_a_stranger_is_refused_by_every_call(w: World, agent: Process) -> None:
    bob = BoundSyscalls(w.calls, BOB)
    for made in (
        bob.sys_proc_kill(agent.pid),
        bob.sys_proc_signal(agent.pid, "stop"),
        bob.sys_proc_nice(agent.pid, 5),
        bob.sys_proc_send(agent.pid, "hello"),
        bob.sys_proc_steer(agent.pid, "hello"),
        bob.sys_proc_checkpoint(agent.pid),
        bob.sys_proc_restrict(agent.pid, {"tools": []}),
        bob.sys_proc_limit(agent.pid, "tokens", 1),
        bob.sys_proc_answer(agent.pid, 1, "approve"),
        bob.sys_proc_spawn({"task": "x"}, parent_pid=agent.pid),
    ):
        with pytest.raises(KernelError) as caught:
            await made
        assert isinstance(caught.value, AccessError | NotPermittedError)
    assert not agent.state.ended and agent.wchan == "approval"
