"""What `exec` and `python` share: running a program and saying what came of it."""

import signal

from nexusfs.contracts.errors import (
    NoSandboxError,
    NotFoundError,
    TimeoutExpiredError,
    ToolFailedError,
)
from nexusfs.contracts.sandbox import Captured, Command, Ended
from nexusfs.contracts.tool import ToolContext
from nexusfs.services.tools.missing import missing

MAX_ARGUMENT_BYTES = 128 * 1024 - 1
"""Of one argument of a program. Source: Linux MAX_ARG_STRLEN."""
TIMEOUT_S = 3700.0
"""Of the tools: longer than any program may take, which has a limit of its own."""


async def run_program(
    ctx: ToolContext, argv: list[str], cwd: str, stdin: str, timeout_s: float
) -> str:
    """Runs a program and returns its output and exit code as text.

    Raises:
        TimeoutExpiredError: ETIMEDOUT, it took too long.
        ToolFailedError: EREMOTEIO, another limit ended it. Both with what it had said.
        NoSandboxError, CapacityError: it may not run here, or not now.
        NotFoundError: ENOENT, cwd is not there.
    """
    if ctx.programs is None:
        raise NoSandboxError("programs are not run here: the sandbox service is off (sys/services)")
    for argument in argv:
        _check(argument)
    path = ctx.path(cwd)
    if not (await _stat(ctx, path)):
        raise ToolFailedError(f"cwd is not a directory: {path!r}")
    command = Command(
        tuple(argv), path, stdin.encode("utf-8", "replace"), timeout_s if timeout_s else None
    )
    ended = await ctx.programs.run(command)
    said = _said(ended)
    if ended.timed_out:
        raise TimeoutExpiredError(
            f"it was ended, with all it had started: {ended.stopped}; give it less to do, or a "
            f"longer timeout_s\n{said}".rstrip()
        )
    if ended.stopped:
        raise ToolFailedError(
            f"it was ended, with all it had started: {ended.stopped}\n{said}".rstrip()
        )
    return f"{said}[exit code {_code(ended)}]"


async def _stat(ctx: ToolContext, path: str) -> bool:
    try:
        return (await ctx.files.stat(path)).is_dir
    except NotFoundError:
        raise await missing(ctx, path) from None


def _check(argument: str) -> None:
    """ToolFailedError for an argument that no program can be given."""
    if "\0" in argument:
        raise ToolFailedError("a command may not contain NUL")
    if len(argument.encode("utf-8", "replace")) > MAX_ARGUMENT_BYTES:
        raise ToolFailedError(
            f"an argument is over {MAX_ARGUMENT_BYTES:,} bytes: give it as stdin, or write it to a "
            "file first"
        )


def _code(ended: Ended) -> str:
    """The exit code; where it means a signal, which."""
    code = ended.exit_code
    if 128 < code < 128 + signal.NSIG:
        try:
            return f"{code}, ended by {signal.Signals(code - 128).name}"
        except ValueError:
            return str(code)
    return str(code)


def _said(ended: Ended) -> str:
    """Both streams as text, each ending with a newline, and the note."""
    out, err = _text(ended.stdout), _text(ended.stderr)
    said = f"{out}[stderr]\n{err}" if err else out
    return f"{said}[{ended.note}]\n" if ended.note else said


def _text(captured: Captured) -> str:
    """One stream: all of it, or its head and its tail and what is between."""
    head = captured.head.decode("utf-8", "replace")
    tail = captured.tail.decode("utf-8", "replace")
    if captured.cut_bytes <= 0:
        text = (captured.head + captured.tail).decode("utf-8", "replace")
    else:
        where = "and is not kept"
        if captured.path:
            where = f"of {captured.size_bytes:,}; all of it is in /nexus{captured.path}"
        text = f"{head}\n[… {captured.cut_bytes:,} bytes are cut here {where} …]\n{tail}"
    return text if not text or text.endswith("\n") else text + "\n"
