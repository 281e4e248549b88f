"""Processes and tools through the one syscall layer."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.errors import (
    BusyError,
    DisconnectedError,
    ExistsError,
    InvalidError,
    KernelError,
    NoProcessError,
    NotDirectoryError,
    NotFoundError,
    NotPermittedError,
    PipeClosedError,
    TimeoutExpiredError,
    UnavailableError,
    UnknownToolError,
)
from nexusfs.contracts.node import Change
from nexusfs.contracts.proc import ProcessInfo
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.syscalls import Syscalls
from tests.kernel_fixture import ALICE, BOB, ROOT, Workshop, booted, spec, until
from tests.unit.kernel.files import Files, error

Clock = trio.testing.MockClock
CHAT = {"mode": "chat"}


async def spawn(calls: Syscalls, **fields: Any) -> ProcessInfo:
    return await calls.sys_proc_spawn(ALICE, spec(**fields))


# Spawn


async def test_a_spawn_is_seen_in_the_list_at_once(calls: Syscalls) -> None:
    info = await spawn(calls, name="bob", zone="lab", **CHAT)

    assert await calls.sys_proc_list(ALICE) == [info]


async def test_a_spawn_runs_its_agent(calls: Syscalls) -> None:
    info = await spawn(calls, task="do it")

    status = await calls.sys_proc_wait(ALICE, info.pid)

    assert (status.pid, status.exit_code, status.reason) == (info.pid, 0, "done")


@pytest.mark.parametrize(
    ("cwd", "expected"),
    [("/nowhere", NotFoundError), ("/f", NotDirectoryError), ("/f/x", NotDirectoryError)],
)
async def test_a_cwd_that_is_no_directory_is_refused(
    calls: Syscalls, root: Files, cwd: str, expected: type[KernelError]
) -> None:
    await root.put("/f")

    assert await error(spawn(calls, cwd=cwd)) is expected
    assert await calls.sys_proc_list(ROOT) == []


AGENT = b"---\nname: looker\ntools: look\n---\nLook around.\n"


async def test_an_installed_agent_is_spawned_by_its_name(calls: Syscalls, root: Files) -> None:
    await root.bound.make_dirs("/bin")
    await root.put("/bin/looker.md", AGENT, 0o755)

    info = await spawn(calls, agent="looker", task="x")

    process = calls.processes.get(info.pid)
    assert (info.agent_id, process.installed) == ("looker", "looker")
    assert (process.spec.instructions, process.spec.tools) == ("Look around.", ("look",))


@pytest.mark.parametrize(
    ("mode", "data", "number"),
    [(0o644, AGENT, "EACCES"), (0o700, AGENT, "EACCES"), (0o755, b"hello\n", "ENOEXEC"),
     (0o755, b"---\nmodle: x\n---\n", "ENOEXEC"), (None, b"", "ENOENT")],
)  # fmt: skip
async def test_what_is_not_installed_says_why(
    calls: Syscalls, root: Files, mode: int | None, data: bytes, number: str
) -> None:
    await root.bound.make_dirs("/bin")
    if mode is not None:
        await root.put("/bin/looker.md", data, mode)

    found = await error(spawn(calls, agent="looker"))

    kinds = {"EACCES": "AccessError", "ENOEXEC": "NotSpecError", "ENOENT": "NotFoundError"}
    assert found.__name__ == kinds[number]


async def test_of_five_concurrent_singletons_one_wins(calls: Syscalls) -> None:
    outcomes: list[object] = []

    async def one() -> None:
        try:
            outcomes.append((await spawn(calls, name="only", singleton=True, **CHAT)).pid)
        except ExistsError:
            outcomes.append("EEXIST")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)

    assert sorted(map(str, outcomes)) == ["2", *["EEXIST"] * 4]


# Kill, wait, list


async def test_kill_says_whether_it_ended_anything(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid

    said = [await calls.sys_proc_kill(ALICE, pid, "enough") for _ in range(2)]

    assert said == [{"pid": pid, "terminated": True}, {"pid": pid, "terminated": False}]


async def test_a_wait_over_its_timeout_is_etimedout(calls: Syscalls, autojump_clock: Clock) -> None:
    pid = (await spawn(calls, **CHAT)).pid

    assert await error(calls.sys_proc_wait(ALICE, pid, 3)) is TimeoutExpiredError
    assert trio.current_time() == pytest.approx(3)


async def test_the_list_is_filtered_by_zone_and_state(calls: Syscalls) -> None:
    lab = await spawn(calls, zone="lab", **CHAT)
    field = await spawn(calls, zone="field", **CHAT)
    await calls.sys_proc_signal(ALICE, field.pid, "stop")

    async def pids(**filters: str) -> list[int]:
        return [info.pid for info in await calls.sys_proc_list(ALICE, **filters)]

    assert await pids() == [lab.pid, field.pid]
    assert await pids(zone_id="lab") == [lab.pid]
    assert await pids(state="paused") == [field.pid]
    assert await pids(zone_id="lab", state="paused") == []


async def test_an_unknown_state_is_einval_and_names_them(calls: Syscalls) -> None:
    with pytest.raises(InvalidError, match="created, running, paused, stopped, zombie"):
        await calls.sys_proc_list(ALICE, state="asleep")


Call = Callable[[Syscalls, int], Awaitable[object]]
ON_A_PROCESS: dict[str, Call] = {
    "kill": lambda calls, pid: calls.sys_proc_kill(BOB, pid),
    "signal": lambda calls, pid: calls.sys_proc_signal(BOB, pid, "stop"),
    "send": lambda calls, pid: calls.sys_proc_send(BOB, pid, "hi"),
}


WAIT: Call = lambda calls, pid: calls.sys_proc_wait(BOB, pid)  # noqa: E731  as those above


@pytest.mark.parametrize("call", [*ON_A_PROCESS, "wait"])
async def test_an_unknown_pid_is_esrch(calls: Syscalls, call: str) -> None:
    made = WAIT if call == "wait" else ON_A_PROCESS[call]

    assert await error(made(calls, 77)) is NoProcessError


@pytest.mark.parametrize("call", ON_A_PROCESS)
async def test_an_agent_of_somebody_else_is_eperm(calls: Syscalls, call: str) -> None:
    pid = (await spawn(calls, **CHAT)).pid

    assert await error(ON_A_PROCESS[call](calls, pid)) is NotPermittedError


# Signals and messages


async def test_signals_stop_continue_and_reap(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid
    states = []
    for verb in ("stop", "cont"):
        await calls.sys_proc_signal(ALICE, pid, verb)
        states += [info.state for info in await calls.sys_proc_list(ALICE)]
    await calls.sys_proc_kill(ALICE, pid)
    await calls.sys_proc_signal(ALICE, pid, "reap")

    assert (states, await calls.sys_proc_list(ALICE)) == (["paused", "running"], [])


@pytest.mark.parametrize("verb", ["", "STOP", "kill", "hup"])
async def test_an_unknown_signal_is_einval(calls: Syscalls, verb: str) -> None:
    pid = (await spawn(calls, **CHAT)).pid

    assert await error(calls.sys_proc_signal(ALICE, pid, verb)) is InvalidError


async def test_a_signal_that_its_state_does_not_allow_is_ebusy(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid

    assert await error(calls.sys_proc_signal(ALICE, pid, "reap")) is BusyError


async def test_a_message_reaches_its_agent(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid
    await calls.sys_proc_send(ALICE, pid, "hi")
    process = calls.processes.get(pid)
    await until(lambda: len(process.transcript) == 2)

    assert process.transcript[0] == {"role": "user", "content": "hi"}


async def test_a_message_to_an_ended_agent_is_epipe(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid
    await calls.sys_proc_kill(ALICE, pid)

    assert await error(calls.sys_proc_send(ALICE, pid, "hi")) is PipeClosedError


# Tools


async def test_people_may_use_every_tool(calls: Syscalls, shop: Workshop) -> None:
    names = [one.name for one in await calls.sys_tools(BOB)]

    assert names == sorted(one.name for one in shop.tools)


async def test_a_dispatch_runs_a_tool(calls: Syscalls, shop: Workshop) -> None:
    result = await calls.sys_dispatch(ALICE, "act", {"mark": "x"}, "c7")

    assert (result.tool_call_id, result.output, shop.trace) == ("c7", "act done x", ["+x", "-x"])


async def test_a_tool_that_an_agent_may_not_use_does_not_exist_for_it(
    calls: Syscalls, shop: Workshop
) -> None:
    pid = (await spawn(calls, tools=["look"], **CHAT)).pid
    agent = calls.processes.get(pid).cred

    assert [one.name for one in await calls.sys_tools(agent)] == ["look"]
    assert await error(calls.sys_dispatch(agent, "act", {})) is UnknownToolError
    assert shop.trace == []


# Off, and shut

ALL: dict[str, Callable[[Syscalls], Awaitable[object]]] = {
    "spawn": lambda calls: calls.sys_proc_spawn(ROOT, spec(task="x")),
    "kill": lambda calls: calls.sys_proc_kill(ROOT, 2),
    "wait": lambda calls: calls.sys_proc_wait(ROOT, 2),
    "list": lambda calls: calls.sys_proc_list(ROOT),
    "signal": lambda calls: calls.sys_proc_signal(ROOT, 2, "stop"),
    "send": lambda calls: calls.sys_proc_send(ROOT, 2, "hi"),
}


@pytest.fixture
async def without_agents(tmp_path: Path) -> AsyncIterator[Kernel]:
    async with booted(tmp_path / "off", None) as kernel:
        yield kernel


@pytest.mark.parametrize("call", ALL)
async def test_without_the_agent_service_a_call_is_eopnotsupp_and_says_why(
    without_agents: Kernel, call: str
) -> None:
    with pytest.raises(UnavailableError, match="agents are not available here"):
        await ALL[call](without_agents.syscalls)


async def test_without_the_agent_service_tools_and_files_work(without_agents: Kernel) -> None:
    bound = BoundSyscalls(without_agents.syscalls, ROOT)
    await bound.write_file("/f", b"hello")

    result = await bound.sys_dispatch("read_file", {"path": "/f"})

    assert result.output == "hello"


@pytest.mark.parametrize("call", ALL)
async def test_a_kernel_that_shuts_down_answers_enotconn(calls: Syscalls, call: str) -> None:
    calls.gate.shut = True

    assert await error(ALL[call](calls)) is DisconnectedError


async def test_an_open_file_is_closed_also_while_the_kernel_shuts_down(
    calls: Syscalls, root: Files
) -> None:
    await root.put("/f")
    fd = await root.open("/f", 0)
    calls.gate.shut = True

    await calls.sys_close(fd)

    assert calls.descriptors.files == {}


# Bound


async def test_a_bound_call_has_its_credentials(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid

    assert await error(BoundSyscalls(calls, BOB).sys_proc_kill(pid)) is NotPermittedError
    assert (await BoundSyscalls(calls, ALICE).sys_proc_kill(pid))["terminated"]


async def test_bound_reads_give_a_part_of_a_file(root: Files) -> None:
    await root.put("/f", b"abcdef")

    parts = [await root.bound.read_file("/f", offset=2, size=3),
             await root.bound.read_file("/f", offset=4)]  # fmt: skip
    assert parts == [b"cde", b"ef"]


async def test_bound_reads_of_a_stream_give_what_is_there(calls: Syscalls) -> None:
    pid = (await spawn(calls, **CHAT)).pid
    bound = BoundSyscalls(calls, ALICE)

    assert b'"spawn"' in await bound.read_file(f"/proc/{pid}/events_pipe")


async def test_what_is_no_system_call_is_not_bound(calls: Syscalls) -> None:
    with pytest.raises(UnavailableError):
        _ = BoundSyscalls(calls, ALICE).gate


# The shapes of the reference runtime


async def installed(calls: Syscalls, name: str) -> None:
    bound = BoundSyscalls(calls, ROOT)
    await bound.make_dirs("/bin")
    await bound.write_file(f"/bin/{name}.md", b"---\nmodel: offline/echo\nmode: chat\n---\nHi.\n")
    await calls.sys_setattr(ROOT, f"/bin/{name}.md", Change(mode=0o755))


async def test_spawn_takes_agent_zone_parent_and_metadata(calls: Syscalls) -> None:
    await installed(calls, "expert")
    parent = await spawn(calls, zone="lab", **CHAT)

    info = await calls.sys_proc_spawn(
        ROOT, agent_id="expert", zone_id="lab", parent_pid=parent.pid, metadata={"k": 1}
    )

    assert (info.agent_id, info.zone_id, info.parent_pid) == ("expert", "lab", parent.pid)
    assert (info.state, info.warnings) == ("running", ())
    assert calls.processes.get(info.pid).spec.metadata == {"k": 1}


async def test_spawn_with_neither_an_agent_nor_a_spec_is_einval(calls: Syscalls) -> None:
    with pytest.raises(InvalidError, match="say what to run"):
        await calls.sys_proc_spawn(ROOT, zone_id="lab", metadata={})


async def test_a_field_that_is_given_twice_is_einval(calls: Syscalls) -> None:
    with pytest.raises(InvalidError, match="'zone' is given twice"):
        await calls.sys_proc_spawn(ROOT, {"zone": "a", "task": "x"}, zone_id="b")


async def test_a_child_of_anothers_agent_is_eperm(calls: Syscalls) -> None:
    parent = await spawn(calls, **CHAT)

    with pytest.raises(NotPermittedError):
        await calls.sys_proc_spawn(BOB, CHAT, parent_pid=parent.pid)


async def test_an_agent_starts_children_of_its_own_and_of_its_descendants(calls: Syscalls) -> None:
    top = await spawn(calls, **CHAT)
    cred = calls.processes.get(top.pid).cred
    child = await calls.sys_proc_spawn(cred, CHAT, parent_pid=top.pid)

    below = await calls.sys_proc_spawn(cred, CHAT, parent_pid=child.pid)

    assert (child.parent_pid, below.parent_pid) == (top.pid, child.pid)
    with pytest.raises(NotPermittedError):
        await calls.sys_proc_spawn(cred, CHAT, parent_pid=1)


async def test_a_child_is_in_the_zone_of_its_parent_and_of_no_other(calls: Syscalls) -> None:
    top = await spawn(calls, zone="lab", **CHAT)
    cred = calls.processes.get(top.pid).cred

    assert (await calls.sys_proc_spawn(cred, CHAT)).zone_id == "lab"
    with pytest.raises(NotPermittedError, match="zone of its parent, lab"):
        await calls.sys_proc_spawn(cred, {**CHAT, "zone": "field"})


async def test_an_agent_lists_and_waits_for_those_of_its_zone(calls: Syscalls) -> None:
    mine = await spawn(calls, zone="lab", **CHAT)
    other = await spawn(calls, zone="field", **CHAT)
    cred = calls.processes.get(mine.pid).cred

    assert [info.pid for info in await calls.sys_proc_list(cred)] == [mine.pid]
    with pytest.raises(NoProcessError):
        await calls.sys_proc_wait(cred, other.pid, 0)
