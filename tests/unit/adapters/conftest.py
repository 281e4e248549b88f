"""A directory of plain files in the shape of a mount, for what the client commands only read."""

from collections.abc import Callable
from pathlib import Path

import pytest

AddProcess = Callable[..., None]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("sys/version", "proc/spawn", "bin/reviewer.md", "dispatch/grep"):
        path = tmp_path / "mnt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path / "mnt"


@pytest.fixture
def add_process(tree: Path) -> AddProcess:
    def add(pid: int, ppid: int = 1, **keys: str) -> None:
        directory = tree / "proc" / str(pid)
        directory.mkdir()
        status = {"Name": f"a{pid}", "State": "R (running)", "Pid": str(pid), "PPid": str(ppid)}
        lines = (f"{key}:\t{value}\n" for key, value in {**status, **keys}.items())
        (directory / "status").write_text("".join(lines))
        (directory / "status.json").write_text(f'{{\n "pid": {pid}\n}}\n')

    return add
