"""`python -m tests.bench [name…]`: measures, and prints one table."""

import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import agents, fanout, files, in_process, measures, rights, sandbox, sched
from tests.bench.rivals import bench, filesystem
from tests.bench.rows import Row

WIDTH = 120
"""Characters of the table in a file or a pipe."""
MEASURES = (
    measures.MEASURES
    | files.MEASURES
    | in_process.MEASURES
    | agents.MEASURES
    | fanout.MEASURES
    | sandbox.MEASURES
    | sched.MEASURES
    | rights.MEASURES
)


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - set(MEASURES))
    if unknown:
        raise SystemExit(f"no measure {unknown[0]!r}: one of {', '.join(MEASURES)}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nexusfs-bench-") as made:
        directory = Path(made)
        local = filesystem(directory)
        with bench(directory) as ready:
            rows = []
            for name in names or MEASURES:
                with console.status(f"measuring {name}"):
                    rows += list(MEASURES[name](ready))
    console.print(_table(rows, local))
    console.print(
        f"{time.monotonic() - began:.0f} s, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"plain = a plain pyfuse3 program with the same timeouts, {local} = a file in {directory}"
    )


def _table(rows: list[Row], local: str) -> Table:
    table = Table(title="NexusFS: ratio = how many times as fast as the rival, in this run")
    for heading in ("what", "ours", "rival", "ratio", "goal", ""):
        table.add_column(heading, justify="left" if heading in ("what", "rival") else "right")
    for row in rows:
        word = {None: "", True: "[green]ok", False: "[red]short"}[row.met]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.what, row.ours, row.rival.replace("ext4", local), ratio, row.goal, word)
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
