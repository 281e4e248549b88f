"""The command `nexusfs`: a subcommand's module is imported when it is used, to start quickly."""

import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from nexusfs.adapters.cli.options import examples
from nexusfs.adapters.client import ClientError

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

COMMANDS = {
    "mount": ("mount.cli:mount", "Mount a store; return when it answers."),
    "umount": ("mount.cli:umount", "Unmount; return when the store is free."),
    "doctor": ("mount.cli:doctor", "Say what this machine lacks, and how to get it."),
    "ps": ("nexusfs.adapters.cli.processes:ps", "List agents."),
    "tree": ("nexusfs.adapters.cli.processes:tree", "Show agents below their parents."),
    "spawn": ("nexusfs.adapters.cli.agents:spawn", "Start an agent and print its pid."),
    "run": ("nexusfs.adapters.cli.agents:run", "Start an agent, show its work, exit as it does."),
    "wait": ("nexusfs.adapters.cli.agents:wait", "Wait until agents have ended."),
    "kill": ("nexusfs.adapters.cli.agents:kill", "Send a verb to agents: term, kill, stop, ..."),
    "logs": ("nexusfs.adapters.cli.logs:logs", "Print what an agent said or did."),
    "call": ("nexusfs.adapters.cli.call:call", "Run a tool and print its output."),
    "audit": ("nexusfs.adapters.cli.audit:audit", "Check the audit log for changes."),
    "mock-llm": ("nexusfs.adapters.mock_llm:mock_llm", "Serve a script as a model endpoint."),
    "completion": ("nexusfs.adapters.cli.completion:completion", "Print shell completion."),
}
"""Each command: where it is, as module:attribute, and its line in --help."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with the table's lines, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, then options; imports none of them."""
        names = [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "nexusfs mount ~/nexus",
        "nexusfs run 'list /bin'",
        "nexusfs ps",
    ),
)
@click.version_option(package_name="nexusfs", message="%(prog)s %(version)s")
def cli() -> None:
    """NexusFS: an agent kernel, mounted as a filesystem.

    Client commands find the mount by --mnt, NEXUSFS_MNT, the current directory or the mount table.
    """


def fail(sentence: str, status: int) -> NoReturn:
    """Ends the program with one line on stderr."""
    click.echo(f"nexusfs: {' '.join(sentence.split())}", err=True)
    sys.exit(status)


def _run(arguments: list[str] | None) -> Any:
    try:
        return cli.main(args=arguments, prog_name="nexusfs", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "nexusfs"
        fail(f"{exc.format_message().rstrip('.')} (see {path} --help)", exc.exit_code)
    except click.ClickException as exc:
        fail(exc.format_message(), exc.exit_code)
    except ClientError as exc:
        fail(str(exc), exc.status)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        fail(f"{where}{exc.strerror or exc}", 1)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0, the agent's code, 1 for a failure, 2 for wrong usage."""
    try:
        result = _run(arguments)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone; keep the interpreter's own flush at exit from saying so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
