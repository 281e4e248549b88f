"""ps and tree: the processes of a mount, from their status files."""

import errno
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Literal

import click

from nexusfs.adapters.cli.options import complete_pids, examples, with_mount
from nexusfs.adapters.client import ClientError, Mount

Status = dict[str, str]

COLUMNS = {
    "PID": ("Pid",),
    "PPID": ("PPid",),
    "STATE": ("State",),
    "NAME": ("Name",),
    "MODEL": ("Model",),
    "TURNS": ("Turns",),
    "TOOLS": ("ToolCalls",),
    "TOKENS": ("InputTokens", "OutputTokens"),
    "COST": ("CostUSD",),
    "WAITS": ("Wchan",),
    "EXIT": ("ExitCode",),
}
"""Headings of ps, each with the status keys that it shows; numbers of several are added up."""

_ENDED = ("Z", "X")
_NUMERIC = ("PID", "PPID", "TURNS", "TOOLS", "TOKENS", "COST", "EXIT")


@click.command(
    epilog=examples(
        "nexusfs ps",
        "nexusfs ps --live",
        "nexusfs ps | cut -f 1,4",
        "nexusfs ps --json | jq .cost_usd",
    )
)
@click.option("-l", "--live", is_flag=True, help="Leave out those that have ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: all of status.json.")
@with_mount
def ps(mount: Mount, live: bool, as_json: bool) -> None:
    """List agents: a table on a terminal, tab-separated lines elsewhere."""
    found = [s for s in mount.statuses() if not (live and s.get("State", "").startswith(_ENDED))]
    if as_json:
        for line in json_lines(mount, found):
            click.echo(line)
    elif sys.stdout.isatty():
        _print_table(found)
    else:
        for row in [list(COLUMNS), *(row_of(status) for status in found)]:
            click.echo("\t".join(row))


def json_lines(mount: Mount, found: Iterable[Status]) -> Iterator[str]:
    """status.json of each process, on one line; those that have vanished are left out."""
    for status in found:
        try:
            yield json.dumps(json.loads(mount.read(f"proc/{status['Pid']}/status.json")))
        except ClientError as exc:
            if exc.errno not in (errno.ENOENT, errno.ESRCH):
                raise


def row_of(status: Status) -> list[str]:
    """The cells of one process, in the order of COLUMNS; `-` for what it has not."""
    return [_cell([status[key] for key in keys if status.get(key)]) for keys in COLUMNS.values()]


def _cell(values: list[str]) -> str:
    if len(values) > 1 and all(value.isdigit() for value in values):
        return str(sum(map(int, values)))
    return " ".join(values).replace("\t", " ") or "-"


def shortened(cell: str) -> str:
    """A cell as a narrow terminal shows it: `R (running)` is running, 0.001200 is 0.0012."""
    state = re.fullmatch(r"[A-Z] \((\w+)\)", cell)
    if state:
        return state[1]
    return cell.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d+", cell) else cell


def _print_table(found: list[Status]) -> None:
    # Here and not above: rich takes longer than all the rest, and only a terminal needs it.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in COLUMNS:
        justify: Literal["left", "right"] = "right" if heading in _NUMERIC else "left"
        table.add_column(heading, justify=justify, no_wrap=True)
    for status in found:
        style = "dim" if status.get("State", "").startswith(_ENDED) else ""
        table.add_row(*(Text(shortened(cell)) for cell in row_of(status)), style=style)
    Console().print(table)


@click.command(
    epilog=examples(
        "nexusfs tree",
        "nexusfs tree 7",
    )
)
@with_mount
@click.argument("pid", required=False, type=int, shell_complete=complete_pids)
def tree(mount: Mount, pid: int | None) -> None:
    """Show agents below their parents; all of them, or PID and what it started."""
    found = {int(s["Pid"]): s for s in mount.statuses() if s.get("Pid", "").isdigit()}
    if pid is not None and pid not in found:
        raise ClientError(errno.ESRCH, f"no process {pid}")
    for line in tree_lines(found, [pid] if pid is not None else roots(found)):
        click.echo(line)


def roots(found: dict[int, Status]) -> list[int]:
    """Processes whose parent is not listed."""
    return [pid for pid, status in found.items() if parent_of(status) not in found]


def parent_of(status: Status) -> int:
    """The parent's pid; 0 for none."""
    parent = status.get("PPid", "")
    return int(parent) if parent.isdigit() else 0


def tree_lines(found: dict[int, Status], tops: list[int]) -> Iterator[str]:
    """One line per process, children indented below their parents."""
    children: dict[int, list[int]] = {}
    for pid, status in sorted(found.items()):
        children.setdefault(parent_of(status), []).append(pid)
    # A list instead of recursion: a chain of agents may be longer than Python's stack.
    waiting = [(pid, "", "") for pid in reversed(tops)]
    while waiting:
        pid, lead, rest = waiting.pop()
        yield lead + label(found[pid])
        below = children.get(pid, [])
        for number, child in enumerate(reversed(below)):
            last = number == 0
            waiting.append(
                (child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
            )


def label(status: Status) -> str:
    """A process in one line: pid, name, state, model, and what it waits for."""
    words = [status.get(key, "") for key in ("Pid", "Name", "State", "Model")]
    wchan = status.get("Wchan", "0")
    if wchan not in ("", "0", "-"):
        words.append(f"waits: {wchan}")
    return " ".join(word for word in words if word)
