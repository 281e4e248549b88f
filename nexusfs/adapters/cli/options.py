"""The option --mnt, and what Tab completes from the mount."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from nexusfs.adapters.client import ClientError, Mount, find_mount

Command = TypeVar("Command", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """The epilog of a command's --help: its examples, one a line, kept as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _find(ctx: click.Context, _param: click.Parameter, value: str | None) -> Mount | str | None:
    return value if ctx.resilient_parsing else find_mount(value)


def with_mount(function: Command) -> Command:
    """Adds --mnt and passes the Mount that it, NEXUSFS_MNT, the directory or the table names."""
    return click.option(
        "--mnt",
        "mount",
        metavar="DIR",
        envvar="NEXUSFS_MNT",
        show_envvar=True,
        type=click.Path(file_okay=False),
        callback=_find,
        help="The mount point; found by itself when there is one.",
    )(function)


def _mount_of(ctx: click.Context) -> Mount | None:
    try:
        return find_mount(ctx.params.get("mount"))
    except ClientError:
        return None


def complete_pids(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Pids in the mount, each with its name and state."""
    mount = _mount_of(ctx)
    try:
        found = list(mount.statuses()) if mount else []
    except ClientError:
        return []
    return [
        CompletionItem(s["Pid"], help=f"{s.get('Name', '')} {s.get('State', '')}")
        for s in found
        if s.get("Pid", "").startswith(incomplete)
    ]


def complete_agents(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Installed agents for the first word; files when none fits."""
    if ctx.params.get("words"):
        return []
    names = [name.removesuffix(".md") for name in _names(ctx, "bin") if name.endswith(".md")]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_tools(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Tools that the caller may use."""
    return [CompletionItem(n) for n in _names(ctx, "dispatch") if n.startswith(incomplete)]


def _names(ctx: click.Context, directory: str) -> list[str]:
    mount = _mount_of(ctx)
    try:
        return mount.names(directory) if mount else []
    except ClientError:
        return []
