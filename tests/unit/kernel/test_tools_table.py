"""The tool table: registering, denying, running."""

from typing import Annotated

import pytest
import trio
from pydantic import Field

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    DisconnectedError,
    ExistsError,
    InvalidError,
    KernelError,
    TimeoutExpiredError,
    UnknownToolError,
)
from nexusfs.contracts.tool import ToolContext, ToolResult, tool
from tests.kernel_fixture import ALICE, ROOT, BareDispatcher, Workshop, warm

Clock = trio.testing.MockClock


@pytest.fixture
def bare(shop: Workshop) -> BareDispatcher:
    return BareDispatcher(*shop.tools)


async def error(bare: BareDispatcher, name: str, **arguments: object) -> KernelError:
    with pytest.raises(KernelError) as caught:
        await bare.sys_dispatch(ROOT, name, arguments)
    return caught.value


# Registering


def test_a_name_that_is_taken_is_eexist(bare: BareDispatcher, shop: Workshop) -> None:
    with pytest.raises(ExistsError):
        bare.table.register(shop.tools[0])


def test_tools_are_listed_by_name(bare: BareDispatcher) -> None:
    assert bare.table.all_names() == ["act", "crash", "fail", "look", "raw"]


async def test_an_unknown_tool_names_the_nearest(bare: BareDispatcher) -> None:
    found = await error(bare, "lokk")

    assert isinstance(found, UnknownToolError)
    assert "did you mean 'look'" in str(found)


async def test_a_tool_unlike_all_others_says_where_to_look(bare: BareDispatcher) -> None:
    assert "ls dispatch" in str(await error(bare, "zzzzzz"))


# Denying


@pytest.fixture
def narrow(shop: Workshop) -> BareDispatcher:
    """A table in which Alice may only look."""
    bare = BareDispatcher(*shop.tools)
    bare.table._allowed = lambda cred, names: names if cred is ROOT else ("look",)
    return bare


async def test_a_denied_tool_is_not_listed(narrow: BareDispatcher) -> None:
    assert narrow.table.names(ALICE) == ["look"]
    assert [one.name for one in await narrow.sys_tools(ALICE)] == ["look"]


async def test_a_denied_tool_does_not_exist(narrow: BareDispatcher, shop: Workshop) -> None:
    with pytest.raises(UnknownToolError):
        await narrow.sys_dispatch(ALICE, "act", {})
    assert shop.trace == []


async def test_a_denied_tool_is_not_even_named_as_the_nearest(narrow: BareDispatcher) -> None:
    with pytest.raises(UnknownToolError) as caught:
        await narrow.sys_dispatch(ALICE, "atc", {})
    assert "act" not in str(caught.value)


# Running


async def test_a_call_has_its_id_name_and_duration(bare: BareDispatcher) -> None:
    result = await bare.sys_dispatch(ROOT, "look", {"mark": "x"}, "call_7")

    assert (result.tool_call_id, result.name) == ("call_7", "look")
    assert (result.output, result.error, result.success) == ("look done x", None, True)
    assert 0 < result.duration_ms < 1000


async def test_calls_without_an_id_get_one_each(bare: BareDispatcher) -> None:
    ids = {(await bare.sys_dispatch(ROOT, "look", {})).tool_call_id for _ in range(9)}

    assert len(ids) == 9


async def test_arguments_that_do_not_fit_are_einval_and_nothing_runs(
    bare: BareDispatcher, shop: Workshop
) -> None:
    assert isinstance(await error(bare, "look", seconds="x"), InvalidError)
    assert "did you mean 'mark'" in str(await error(bare, "look", mrak="x"))
    assert shop.trace == []


async def test_a_tool_that_fails_is_a_result(bare: BareDispatcher) -> None:
    result = await bare.sys_dispatch(ROOT, "fail", {})

    assert (result.success, result.error, result.output) == (False, "it does not work", "")


async def test_a_tools_bug_is_a_failed_result_and_a_line_in_the_log(
    bare: BareDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    result = await bare.sys_dispatch(ROOT, "crash", {})

    assert (result.success, result.error) == (False, "internal error: RuntimeError")
    assert "RuntimeError: a bug" in caplog.text
    caplog.clear()


async def test_a_tool_may_give_bytes(bare: BareDispatcher) -> None:
    assert (await bare.sys_dispatch(ROOT, "raw", {})).output == b"caf\xe9"


def test_bytes_are_replaced_in_the_json_of_a_reply() -> None:
    reply = ToolResult("c", "raw", b"caf\xe9", None, 1.23456).to_json()

    assert '"output": "caf\ufffd"'.encode() in reply
    assert b'"duration_ms": 1.235' in reply


async def test_a_slow_tool_is_etimedout_and_cancelled(
    bare: BareDispatcher, shop: Workshop, autojump_clock: Clock
) -> None:
    found = await error(bare, "act", seconds=99)

    assert isinstance(found, TimeoutExpiredError)
    assert trio.current_time() == pytest.approx(10)
    assert shop.trace == ["+act"]


async def test_a_timeout_of_the_tools_own_is_its_failure(autojump_clock: Clock) -> None:
    @tool(timeout_s=10)
    async def impatient(ctx: ToolContext) -> str:
        """Give up early."""
        with trio.fail_after(1):
            await trio.sleep(5)
        return "never"

    result = await BareDispatcher(*warm([impatient])).sys_dispatch(ROOT, "impatient", {})

    assert result.error is not None
    assert trio.current_time() == pytest.approx(1)


async def test_two_calls_run_side_by_side_and_the_short_one_ends_first(
    bare: BareDispatcher, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    ended: list[tuple[str, float]] = []

    async def run(mark: str, seconds: float) -> None:
        await bare.sys_dispatch(ROOT, "act", {"seconds": seconds, "mark": mark})
        ended.append((mark, round(trio.current_time())))

    async with trio.open_nursery() as calls:
        calls.start_soon(run, "long", 4)
        calls.start_soon(run, "short", 1)

    assert ended == [("short", 1), ("long", 4)]


async def test_cancelling_a_call_cancels_its_tool(
    bare: BareDispatcher, shop: Workshop, autojump_clock: Clock
) -> None:
    with trio.move_on_after(2):
        await bare.sys_dispatch(ROOT, "act", {"seconds": 9})
    await trio.sleep(100)

    assert (shop.trace, bare.table.running) == (["+act"], 0)


async def test_calls_under_way_are_counted(
    bare: BareDispatcher, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    for _ in range(3):
        nursery.start_soon(bare.sys_dispatch, ROOT, "act", {"seconds": 2})
    await trio.sleep(1)
    during = bare.table.running
    await trio.sleep(2)

    assert (during, bare.table.running) == (3, 0)


async def test_a_kernel_that_goes_is_no_failure_of_the_tool() -> None:
    @tool()
    async def cut(ctx: ToolContext) -> str:
        """Be there when the kernel goes."""
        raise DisconnectedError("the kernel is shutting down")

    with pytest.raises(DisconnectedError):
        await BareDispatcher(cut).sys_dispatch(ROOT, "cut", {})


async def test_a_call_has_the_callers_context() -> None:
    asked: list[tuple[Credentials, str]] = []

    @tool()
    async def who(ctx: ToolContext, times: Annotated[int, Field(ge=1)] = 1) -> str:
        """Say the id of the call."""
        return ctx.call_id * times

    bare = BareDispatcher(who)
    make = bare.table._context_of

    def note(cred: Credentials, call_id: str) -> ToolContext:
        asked.append((cred, call_id))
        return make(cred, call_id)

    bare.table._context_of = note

    result = await bare.sys_dispatch(ALICE, "who", {"times": 2}, "ab")

    assert (asked, result.output) == ([(ALICE, "ab")], "abab")


@pytest.mark.parametrize("in_a_task", [False, True])
async def test_a_tool_that_calls_exit_fails_and_nothing_else(
    caplog: pytest.LogCaptureFixture, *, in_a_task: bool
) -> None:
    async def leave() -> None:
        raise SystemExit(2)

    @tool(read_only=True)
    async def leaves(ctx: ToolContext) -> str:
        """As argparse does."""
        if in_a_task:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
        await leave()
        return ""

    bare = BareDispatcher(*warm([leaves]))

    result = await bare.sys_dispatch(ROOT, "leaves", {})

    assert not result.success
    assert "internal error" in str(result.error)
    caplog.clear()
