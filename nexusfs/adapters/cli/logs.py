"""logs: what an agent said or did."""

import sys

import click

from nexusfs.adapters.cli.options import complete_pids, examples, with_mount
from nexusfs.adapters.cli.stream import Follower
from nexusfs.adapters.client import Mount


@click.command(
    epilog=examples(
        "nexusfs logs 7",
        "nexusfs logs -f 7",
        "nexusfs logs --events 7 | jq .type",
    )
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the agent ends.")
@click.option("--events", is_flag=True, help="What it did, as JSON Lines, instead of what it said.")
@with_mount
@click.argument("pid", type=int, shell_complete=complete_pids)
def logs(mount: Mount, pid: int, follow: bool, events: bool) -> None:
    """Print what an agent said, from the start.

    Ctrl-C ends `logs -f`, never the agent.
    """
    name = f"proc/{pid}/{'events' if events else 'stdout'}"
    out = sys.stdout.buffer

    def show(piece: bytes) -> None:
        out.write(piece)
        out.flush()

    if follow:
        Follower(mount, {f"{name}_pipe": show}).run()
    else:
        show(mount.read(name))
