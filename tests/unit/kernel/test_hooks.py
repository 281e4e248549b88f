"""Hooks: their order, who may refuse, and what a failing one does; in a kernel with agents."""

import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.errors import AccessError, InvalidError, KernelError, NotPermittedError
from nexusfs.contracts.hooks import (
    DispatchContext,
    HookContext,
    RefusalContext,
    SpawnContext,
    TerminateContext,
)
from nexusfs.contracts.model import ScriptedModel
from nexusfs.kernel.hooks import Hooks
from tests.kernel_fixture import ALICE, BOB, ROOT, Workshop, booted, says, spec, until


class Seen:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def pre_spawn(self, context: SpawnContext) -> None:
        self.told.append(("pre_spawn", context))

    async def post_spawn(self, context: SpawnContext) -> None:
        self.told.append(("post_spawn", context))

    def pre_terminate(self, context: TerminateContext) -> None:
        self.told.append(("pre_terminate", context))

    async def post_terminate(self, context: TerminateContext) -> None:
        self.told.append(("post_terminate", context))

    async def pre_dispatch(self, context: DispatchContext) -> None:
        self.told.append(("pre_dispatch", context))

    def post_dispatch(self, context: DispatchContext) -> None:
        self.told.append(("post_dispatch", context))

    def refused(self, context: RefusalContext) -> None:
        self.told.append(("refused", context))

    def points(self) -> list[str]:
        return [point for point, _ in self.told]


class Refuses:
    """Refuses spawns and tool calls with an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def pre_spawn(self, context: SpawnContext) -> None:
        raise self._error

    def pre_dispatch(self, context: DispatchContext) -> None:
        raise self._error


class FailsAfter:
    """Fails where nothing can be refused any more."""

    def post_spawn(self, context: SpawnContext) -> None:
        raise InvalidError("too late")

    def post_terminate(self, context: TerminateContext) -> None:
        raise InvalidError("too late")

    def post_dispatch(self, context: DispatchContext) -> None:
        raise InvalidError("too late")


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    async with booted(tmp_path / "s", ScriptedModel(says("hi")), tools=Workshop().tools) as made:
        yield made


@pytest.fixture
def seen(kernel: Kernel) -> Seen:
    seen = Seen()
    kernel.hooks.register(seen)
    return seen


CHAT = spec(mode="chat", name="bob", zone="lab", metadata={"k": 1})


async def test_hooks_run_in_order_of_registration() -> None:
    hooks, order = Hooks(), []
    for number in range(3):

        class Hook:
            def pre_spawn(self, context: HookContext, number: int = number) -> None:
                order.append(number)

        hooks.register(Hook())

    await hooks.before("pre_spawn", HookContext("a", "z", 0, 1, 0, {}))

    assert order == [0, 1, 2]


async def test_a_hook_without_the_method_is_passed_over() -> None:
    hooks = Hooks()
    hooks.register(FailsAfter())

    await hooks.before("pre_spawn", HookContext("a", "z", 0, 1, 0, {}))


def test_an_object_without_any_method_is_no_hook() -> None:
    with pytest.raises(InvalidError, match="pre_spawn"):
        Hooks().register(object())


async def test_the_hooks_of_a_life_fire_once_each_with_the_right_fields(
    kernel: Kernel, seen: Seen
) -> None:
    info = await kernel.syscalls.sys_proc_spawn(ALICE, CHAT)
    await kernel.syscalls.sys_proc_kill(ROOT, info.pid, "enough", term=True)
    await until(lambda: "post_terminate" in seen.points())

    assert seen.points() == ["pre_spawn", "post_spawn", "pre_terminate", "post_terminate"]
    for point, context in seen.told:
        named = (context.agent_id, context.zone_id, context.parent_pid, context.uid)
        assert named == ("bob", "lab", 1, ALICE.uid), point
        assert context.metadata == {"k": 1}
    assert seen.told[1][1].pid == info.pid
    assert (seen.told[2][1].exit_code, seen.told[2][1].reason) == (-15, "enough")


async def test_the_hooks_of_a_tool_call_know_the_agent_and_the_outcome(
    kernel: Kernel, seen: Seen
) -> None:
    info = await kernel.syscalls.sys_proc_spawn(ALICE, CHAT)
    cred = kernel.processes.get(info.pid).cred
    seen.told.clear()

    await kernel.syscalls.sys_dispatch(cred, "fail", {})

    assert seen.points() == ["pre_dispatch", "post_dispatch"]
    after = seen.told[1][1]
    assert (after.pid, after.agent_id, after.tool, after.error) == (
        info.pid, "bob", "fail", "it does not work",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (AccessError("the policy says no"), errno.EACCES),
        (OSError(errno.EDQUOT, "no budget"), errno.EDQUOT),
        (OSError(errno.ENODEV, "an errno that we have no class for"), errno.EPERM),
    ],
)
async def test_a_pre_hook_that_raises_refuses_with_its_errno_and_leaves_nothing(
    kernel: Kernel, raised: Exception, number: int
) -> None:
    before = kernel.backing.journal.allocate_pid()
    kernel.hooks.register(Refuses(raised))

    with pytest.raises(KernelError) as spawn:
        await kernel.syscalls.sys_proc_spawn(ALICE, CHAT)
    with pytest.raises(KernelError) as call:
        await kernel.syscalls.sys_dispatch(ALICE, "look", {})

    assert (spawn.value.errno, call.value.errno) == (number, number)
    assert len(kernel.processes) == 0
    assert kernel.backing.journal.allocate_pid() == before + 1
    assert kernel.backing.journal.pids() == []


async def test_a_pre_hook_with_a_bug_refuses_too(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.hooks.register(Refuses(RuntimeError("a bug")))

    with pytest.raises(KernelError, match="Refuses failed: RuntimeError: a bug"):
        await kernel.syscalls.sys_proc_spawn(ALICE, CHAT)
    caplog.clear()


async def test_hooks_behind_one_that_refuses_are_not_run(kernel: Kernel) -> None:
    kernel.hooks.register(Refuses(AccessError("no")))
    seen = Seen()
    kernel.hooks.register(seen)

    with pytest.raises(AccessError):
        await kernel.syscalls.sys_proc_spawn(ALICE, CHAT)

    assert seen.points() == ["refused"]
    assert seen.told[0][1].op == "spawn"


async def test_a_post_hook_that_raises_is_a_warning_and_the_next_ones_run(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.hooks.register(FailsAfter(), "late")
    seen = Seen()
    kernel.hooks.register(seen)

    info = await kernel.syscalls.sys_proc_spawn(ALICE, CHAT)
    result = await kernel.syscalls.sys_dispatch(ALICE, "look", {})
    done = await kernel.syscalls.sys_proc_kill(ROOT, info.pid)
    await until(lambda: "post_terminate" in seen.points())

    assert info.warnings == ("hook late: too late",)
    assert result.warnings == ("hook late: too late",)
    assert b'"warnings": ["hook late: too late"]' in result.to_json()
    assert done["terminated"]
    assert seen.points().count("post_spawn") == seen.points().count("post_dispatch") == 1
    assert "hook late failed in post_terminate" in caplog.text
    caplog.clear()


async def test_what_a_hook_writes_into_its_context_is_in_no_agent(kernel: Kernel) -> None:
    """Agents of a kind share their spec, so one's hook must not write into another's."""

    class Writes:
        def post_spawn(self, context: SpawnContext) -> None:
            context.metadata["trace"] = context.pid
            context.metadata.setdefault("nested", {})["trace"] = context.pid
            context.spec.model_settings["user"] = str(context.pid)

        def pre_terminate(self, context: TerminateContext) -> None:
            context.metadata["trace"] = context.pid

    kernel.hooks.register(Writes())
    agents = []
    for cred in (ALICE, BOB, ALICE):
        wanted = spec(mode="chat", metadata={"nested": {"a": 1}}, model_settings={"user": "u"})
        agents.append(kernel.processes.get((await kernel.processes.spawn(cred, wanted)).pid))
    kernel.processes.kill(ROOT, agents[0].pid)

    for agent in agents:
        assert agent.spec.metadata == {"nested": {"a": 1}}
        assert agent.spec.model_settings == {"user": "u"}
    assert agents[1].spec is agents[2].spec


async def test_a_hook_may_be_any_callable() -> None:
    @dataclass
    class Count:
        seen: int = 0

        def __call__(self, context: HookContext) -> None:
            self.seen += 1

    class Counts:
        refused = Count()

    hooks = Hooks()
    hooks.register(Counts())

    hooks.now("refused", HookContext("", "", 0, 0, 0, {}))

    assert Counts.refused.seen == 1


async def test_a_singleton_that_came_while_a_hook_ran_wins(kernel: Kernel) -> None:
    class Slow:
        async def pre_spawn(self, context: SpawnContext) -> None:
            await trio.lowlevel.checkpoint()

    kernel.hooks.register(Slow())
    outcomes: list[str] = []

    async def spawn() -> None:
        try:
            await kernel.syscalls.sys_proc_spawn(ALICE, spec(mode="chat", name="x", singleton=True))
            outcomes.append("spawned")
        except KernelError as exc:
            outcomes.append(errno.errorcode[exc.errno])

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(spawn)

    assert sorted(outcomes) == ["EEXIST"] * 4 + ["spawned"]


async def test_refusals_are_told_with_what_who_and_why(kernel: Kernel, seen: Seen) -> None:
    info = await kernel.syscalls.sys_proc_spawn(ALICE, spec(mode="chat", name="bob", tools=["act"]))
    agent = kernel.processes.get(info.pid).cred
    seen.told.clear()

    with pytest.raises(NotPermittedError):
        await kernel.syscalls.sys_proc_kill(BOB, info.pid)
    with pytest.raises(NotPermittedError):
        await kernel.syscalls.sys_proc_spawn(agent, spec(tools=["look"]))
    with pytest.raises(KernelError):
        await kernel.syscalls.sys_dispatch(agent, "look", {})
    with pytest.raises(KernelError):
        await kernel.syscalls.sys_dispatch(agent, "no_such_tool", {})

    told = [(c.op, c.target, c.pid, c.uid, c.errno) for _, c in seen.told]
    assert told == [
        ("kill", str(info.pid), 0, BOB.uid, errno.EPERM),
        ("spawn", "", info.pid, ALICE.uid, errno.EPERM),
        ("dispatch", "look", info.pid, ALICE.uid, errno.EACCES),
    ]


async def test_a_hook_that_calls_exit_is_a_hook_that_fails(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaves:
        def pre_spawn(self, context: SpawnContext) -> None:
            raise SystemExit(2)

        async def post_dispatch(self, context: DispatchContext) -> None:
            raise SystemExit(2)

        def pre_terminate(self, context: TerminateContext) -> None:
            raise SystemExit(2)

        async def post_terminate(self, context: TerminateContext) -> None:
            raise SystemExit(2)

    agent = await kernel.syscalls.sys_proc_spawn(ROOT, spec(mode="chat"))
    kernel.hooks.register(Leaves())

    with pytest.raises(KernelError, match="SystemExit"):
        await kernel.syscalls.sys_proc_spawn(ROOT, spec(mode="chat"))
    result = await kernel.syscalls.sys_dispatch(ROOT, "look", {})
    await kernel.syscalls.sys_proc_kill(ROOT, agent.pid)
    await until(lambda: caplog.text.count("hook Leaves failed") >= 4)

    assert result.success
    caplog.clear()


async def test_work_beside_the_kernel_that_fails_is_a_line_of_the_log(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise PermissionError("a bug")

    kernel.start(broken)
    await until(lambda: "work beside the kernel failed" in caplog.text)

    assert (await kernel.syscalls.sys_dispatch(ROOT, "look", {})).success
    caplog.clear()
