"""spawn, run, wait, kill."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from nexusfs.adapters.cli.live import Display
from nexusfs.adapters.cli.options import complete_agents, complete_pids, examples, with_mount
from nexusfs.adapters.cli.spec import fields_of, make_spec, spec_options
from nexusfs.adapters.cli.stream import Follower, Sink
from nexusfs.adapters.client import ClientError, Ended, Mount

OWN_FAILURE, NOT_STARTABLE, NOT_FOUND = 125, 126, 127
"""Exit statuses of a command that runs another. Source: env(1), timeout(1), docker-run(1)."""

VERBS = ["term", "kill", "int", "stop", "cont", "checkpoint", "reap", "steer", "nice"]
_NUMBERS = {"2": "int", "9": "kill", "15": "term", "18": "cont", "19": "stop"}


@contextmanager
def _start_errors() -> Iterator[None]:
    known = {errno.ENOENT: NOT_FOUND, errno.EACCES: NOT_STARTABLE, errno.ENOEXEC: NOT_STARTABLE}
    try:
        yield
    except ClientError as exc:
        exc.status = known.get(exc.errno, OWN_FAILURE)
        raise


class AgentCommand(click.Command):
    """A command that exits as an agent does, and 125, 126 or 127 when NexusFS itself failed."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parses; a mount that is not there is 125."""
        with _start_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with _start_errors():
            return super().invoke(ctx)


@click.command(
    cls=AgentCommand,
    epilog=examples(
        "nexusfs spawn reviewer 'look at /src'",
        "nexusfs spawn -w agent.md",
        "nexusfs spawn --tools read_file,grep 'find TODO in /src'",
        'echo \'{"model":"offline/echo","task":"hello"}\' | nexusfs spawn -',
    ),
)
@click.option("-w", "--wait", "waits", is_flag=True, help="Wait for the end and exit as it does.")
@spec_options
@with_mount
@click.argument(
    "words", nargs=-1, metavar="[NAME|FILE|-] [TASK]...", shell_complete=complete_agents
)
def spawn(mount: Mount, words: tuple[str, ...], waits: bool, **options: Any) -> int:
    """Start an agent and print its pid.

    NAME is an agent of bin/; FILE a Markdown or JSON spec (it has a slash, .md or .json); - reads a
    spec from standard input. A task in quotes, and with --model any other words, need no name.

    Exit status: 0, with -w the agent's (128 + n for signal n); 127 no such agent, 126 it cannot be
    started, 125 any other failure.
    """
    pid = mount.spawn(make_spec(mount, words, fields_of(options)))
    click.echo(pid)
    if not waits:
        return 0
    _warn_if_silent(mount, pid)
    return _tell(mount.wait(pid))


@click.command(
    cls=AgentCommand,
    epilog=examples(
        "nexusfs run reviewer 'look at /src'",
        "nexusfs run --model offline/demo 'list /bin'",
        "nexusfs run -q agent.md 'sum up /docs' > summary.txt",
    ),
)
@click.option("-q", "--quiet", is_flag=True, help="Leave out the tool calls.")
@spec_options
@with_mount
@click.argument(
    "words", nargs=-1, metavar="[NAME|FILE|-] [TASK]...", shell_complete=complete_agents
)
def run(mount: Mount, words: tuple[str, ...], quiet: bool, **options: Any) -> int:
    """Start an agent, show what it says, and exit as it does.

    What it says goes to stdout as it comes, its tool calls to stderr. Ctrl-C ends the agent (term);
    a second one kills it. The words are those of spawn.

    Exit status: the agent's (0 done, 1 failed, 3 a limit, 128 + n for signal n); 127 no such agent,
    126 it cannot be started, 125 any other failure.
    """
    pid = mount.spawn(make_spec(mount, words, fields_of(options)))
    display = Display(quiet=quiet)
    _warn_if_silent(mount, pid)
    _follow(mount, pid, display)
    display.end_line()
    return _tell(mount.wait(pid))


def _follow(mount: Mount, pid: int, display: Display) -> None:
    """Shows an agent until it ends; each Ctrl-C is a stronger verb, the third gives up."""
    sinks: dict[str, Sink] = {
        f"proc/{pid}/stdout_pipe": display.said,
        f"proc/{pid}/events_pipe": display.did,
    }
    follower = Follower(mount, sinks)
    verbs = ["term interrupted at the terminal", "kill"]
    while True:
        try:
            return follower.run()
        except KeyboardInterrupt:
            if not verbs:
                raise
            _send_if_alive(mount, pid, verbs.pop(0))
        except BrokenPipeError:
            _send_if_alive(mount, pid, "term nobody reads its output any more")
            raise


def _warn_if_silent(mount: Mount, pid: int) -> None:
    """Says so when the agent has no task: it waits for a message, and nothing would be shown."""
    if mount.text(f"proc/{pid}/wchan") == "message":
        text = f"nexusfs: agent {pid} has no task and waits: write a message to proc/{pid}/stdin"
        click.echo(text, err=True)


def _send_if_alive(mount: Mount, pid: int, verb: str) -> None:
    try:
        mount.control(pid, verb)
    except ClientError as exc:
        if exc.errno not in (errno.EBUSY, errno.ESRCH, errno.ENOENT):
            raise


def _tell(ended: Ended) -> int:
    if ended.exit_code:
        why = f"agent {ended.pid} ended with {ended.exit_code}: {ended.reason}"
        click.echo(f"nexusfs: {why}", err=True)
    return ended.shell_status


@click.command(
    epilog=examples(
        "nexusfs wait 7",
        "nexusfs wait $(nexusfs spawn a.md) $(nexusfs spawn b.md)",
    )
)
@with_mount
@click.argument(
    "pids", nargs=-1, required=True, type=int, metavar="PID...", shell_complete=complete_pids
)
def wait(mount: Mount, pids: tuple[int, ...]) -> int:
    """Wait until agents have ended; print `pid exit_code reason` for each.

    Exit status: 0 when all were done, otherwise that of the first that was not.
    """
    statuses = []
    for pid in pids:
        ended = mount.wait(pid)
        click.echo(f"{ended.pid} {ended.exit_code} {ended.reason}")
        statuses.append(ended.shell_status)
    return next(filter(None, statuses), 0)


def verb_of(name: str) -> str:
    """The verb of ctl that a signal's name or number means: KILL, SIGKILL and 9 are kill.

    What follows the name belongs to the verb: `steer TEXT`.

    Raises:
        click.UsageError: nothing that a verb could be; the kernel knows which ones there are.
    """
    word, blank, rest = name.partition(" ")
    verb = word.lower().removeprefix("sig")
    verb = _NUMBERS.get(verb, verb)
    if not re.fullmatch(r"[a-z_]+", verb):
        raise click.UsageError(f"{name!r} is no verb; one of: {' '.join(VERBS)}")
    return verb + blank + rest


@click.command(
    epilog=examples(
        "nexusfs kill 7",
        "nexusfs kill -9 7 8",
        "nexusfs kill -s stop 7 && nexusfs kill -s cont 7",
        "nexusfs kill -s checkpoint 7",
        "nexusfs kill -s 'steer look at b.txt too' 7",
        "nexusfs kill 7 --reason 'wrong branch'",
    )
)
@click.option(
    "-s",
    "--signal",
    "verb",
    default="term",
    metavar="VERB",
    shell_complete=lambda _ctx, _param, start: [v for v in VERBS if v.startswith(start)],
    help=f"One of {' '.join(VERBS)}; term by default.",
)
@click.option("-9", "verb", flag_value="kill", help="Short for -s kill.")
@click.option("--reason", default="", metavar="TEXT", help="Shown in the agent's status.")
@with_mount
@click.argument(
    "pids", nargs=-1, required=True, type=int, metavar="PID...", shell_complete=complete_pids
)
def kill(mount: Mount, pids: tuple[int, ...], verb: str, reason: str) -> int:
    """Send a verb to agents; `term` ends one with all of its children.

    `checkpoint` prints the hash of what it wrote.

    Exit status: 0, or 1 when any of them could not be sent.
    """
    failed, request = 0, f"{verb_of(verb)} {reason}"
    for pid in pids:
        try:
            reply = mount.control(pid, request)
            if reply:
                click.echo(reply)
        except ClientError as exc:
            failed = 1
            click.echo(f"nexusfs: {exc}", err=True)
    return failed
