"""The tools that run programs, over a fake that runs none."""

import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from nexusfs.contracts.errors import (
    CapacityError,
    InvalidError,
    NoSandboxError,
    NotFoundError,
    TimeoutExpiredError,
    ToolFailedError,
)
from nexusfs.contracts.sandbox import Captured, Command, Ended
from nexusfs.contracts.tool import ToolContext
from nexusfs.services.tools.exec import exec_
from tests.contract.tool_calls import call, put
from tests.kernel_fixture import ROOT, BareDispatcher


def stream(text: bytes) -> Captured:
    return Captured(text, b"", len(text))


class Pretender:
    """Programs that end as told; remembers what it was asked to run."""

    def __init__(self, **ended: object) -> None:
        whole: dict[str, object] = {
            "exit_code": 0, "stdout": stream(b""), "stderr": stream(b""), "duration_s": 0.1,
            "kind": "bwrap",
        }  # fmt: skip
        self.ended = Ended(**{**whole, **ended})  # type: ignore[arg-type]  # a test names fields
        self.command: Command | None = None

    async def run(self, command: Command) -> Ended:
        self.command = command
        return self.ended


class Refuser:
    """Programs that are refused."""

    def __init__(self, exc: Exception) -> None:
        self._exc = exc

    async def run(self, command: Command) -> Ended:
        raise self._exc


def over(ctx: ToolContext, programs: Pretender | Refuser) -> ToolContext:
    return dataclasses.replace(ctx, programs=programs)


async def test_a_command_line_goes_to_sh(ctx: ToolContext) -> None:
    programs = Pretender()

    await call("exec", over(ctx, programs), command="ls -l", stdin="in", timeout_s=3)

    assert programs.command == Command(("/bin/sh", "-c", "ls -l"), "/", b"in", 3)


async def test_a_list_is_the_program_itself(ctx: ToolContext) -> None:
    await put(ctx, "/d/f")
    programs = Pretender()

    await call("exec", over(ctx, programs), command=["ls", "-l"], cwd="d")

    assert programs.command == Command(("ls", "-l"), "/d", b"", None)


async def test_a_script_is_the_input_of_python(ctx: ToolContext) -> None:
    programs = Pretender()

    await call("python", over(ctx, programs), script="print(1)\n")

    assert programs.command == Command(("python3", "-u", "-"), "/", b"print(1)\n", None)


async def test_without_python_it_says_what_to_install(ctx: ToolContext) -> None:
    programs = Pretender(exit_code=127, stderr=stream(b"sh: 1: exec: python3: not found\n"))

    with pytest.raises(ToolFailedError, match="apt-get install python3"):
        await call("python", over(ctx, programs), script="print(1)")


async def test_the_reply_has_both_streams_and_the_exit_code(ctx: ToolContext) -> None:
    programs = Pretender(stdout=stream(b"out"), stderr=stream(b"err\n"), exit_code=2)

    said = await call("exec", over(ctx, programs), command="x")

    assert said == "out\n[stderr]\nerr\n[exit code 2]"


async def test_the_reply_names_a_limit_that_was_met(ctx: ToolContext) -> None:
    said = await call("exec", over(ctx, Pretender(note="3 forks refused")), command="x")

    assert said == "[3 forks refused]\n[exit code 0]"


async def test_what_is_cut_is_counted_and_its_file_named(ctx: ToolContext) -> None:
    cut = Captured(b"head", b"tail", 1008, "/tmp/call_1.stdout")

    said = await call("exec", over(ctx, Pretender(stdout=cut)), command="x")

    assert said == (
        "head\n[… 1,000 bytes are cut here of 1,008; all of it is in /nexus/tmp/call_1.stdout …]\n"
        "tail\n[exit code 0]"
    )


async def test_a_time_that_is_over_is_a_timeout_with_what_was_said(ctx: ToolContext) -> None:
    programs = Pretender(stopped="it took over 3 s", timed_out=True, stdout=stream(b"so far\n"))

    with pytest.raises(TimeoutExpiredError, match=r"it took over 3 s[^\n]*\nso far$"):
        await call("exec", over(ctx, programs), command="x")


async def test_another_limit_is_a_failure_with_what_was_said(ctx: ToolContext) -> None:
    programs = Pretender(stopped="it wrote over 2 MiB", stdout=stream(b"so far\n"))

    with pytest.raises(ToolFailedError, match=r"it wrote over 2 MiB\nso far$"):
        await call("exec", over(ctx, programs), command="x")


@pytest.mark.parametrize("command", ["", "  \n", []])
async def test_an_empty_command_says_what_to_write(ctx: ToolContext, command: object) -> None:
    with pytest.raises(ToolFailedError, match="empty"):
        await call("exec", over(ctx, Pretender()), command=command)


@pytest.mark.parametrize("command", ["a\0b", "x" * 131072, ["ls", "\0"]])
async def test_an_argument_that_no_program_can_have_is_refused(
    ctx: ToolContext, command: object
) -> None:
    with pytest.raises(ToolFailedError, match=r"NUL|131,071 bytes"):
        await call("exec", over(ctx, Pretender()), command=command)


async def test_a_directory_that_is_not_there_names_what_is_near(ctx: ToolContext) -> None:
    await put(ctx, "/project/f")

    with pytest.raises(NotFoundError, match="/project"):
        await call("exec", over(ctx, Pretender()), command="x", cwd="/projct")


async def test_a_file_is_no_directory_to_start_in(ctx: ToolContext) -> None:
    await put(ctx, "/f")

    with pytest.raises(ToolFailedError, match="not a directory"):
        await call("exec", over(ctx, Pretender()), command="x", cwd="/f")


async def test_a_time_below_0_does_not_fit(ctx: ToolContext) -> None:
    with pytest.raises(InvalidError, match="timeout_s"):
        await call("exec", over(ctx, Pretender()), command="x", timeout_s=-1)


async def test_without_the_service_it_says_so(ctx: ToolContext) -> None:
    with pytest.raises(NoSandboxError, match="sys/services"):
        await call("exec", ctx, command="x")


@pytest.mark.parametrize("exc", [NoSandboxError("no"), CapacityError("full")])
async def test_a_refusal_reaches_the_caller_as_it_is(ctx: ToolContext, exc: Exception) -> None:
    bare = BareDispatcher(dataclasses.replace(exec_, run=_with(over(ctx, Refuser(exc)))))

    with pytest.raises(type(exc)):
        await bare.sys_dispatch(ROOT, "exec", {"command": "x"})


def _with(ctx: ToolContext) -> Callable[..., Awaitable[str]]:
    async def run(_: ToolContext, **arguments: object) -> str:
        return await call("exec", ctx, **arguments)

    return run
