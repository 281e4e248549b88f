"""The machine on the kernel without a mount."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.model.host import keep
from tests.model.machine import Machine, Side
from tests.model.ops import TOP, Op, Result, Tree


class Process:
    """The process of `kernel`, which serves one kernel after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.model.kernel"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP,
        )  # fmt: skip

    def ask(self, name: str, *args: Any) -> Any:
        """The result of a method of the process."""
        assert self._process.stdin and self._process.stdout
        pickle.dump((name, args), self._process.stdin)
        self._process.stdin.flush()
        word, answer = pickle.load(self._process.stdout)
        assert word == "ok", answer
        return answer

    def copy(self, store: Path, target: Path) -> None:
        """What kill -9 would leave of a store now: a copy while no thread moves."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            os.waitpid(self._process.pid, os.WUNTRACED)
            subprocess.run(["cp", "-a", store, target], check=True)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()


class Kernel:
    """One side: calls on a store in `directory`."""

    reads_are_seen = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._store = directory / "store-0"
        self._process = keep("kernel", Process)
        self._process.ask("boot", self._store)
        self._process.ask("call", "make_base")

    def do(self, op: Op) -> Result:
        """Makes the call."""
        result: Result = self._process.ask("call", "do", op)
        return result

    def tree(self) -> Tree:
        """All that is there."""
        found: Tree = self._process.ask("call", "tree")
        return found

    def end(self, crash: bool) -> None:
        """Opens the store anew; after a crash, what kill -9 would have left of the open one."""
        old = self._store
        if crash:
            self._count += 1
            self._store = self._directory / f"store-{self._count}"
            self._process.copy(old, self._store)
        self._process.ask("call", "close")
        if crash:
            shutil.rmtree(old)
        self._process.ask("boot", self._store)

    def close(self) -> None:
        """Closes the store."""
        self._process.ask("call", "close")


class InProcess(Machine):
    """The kernel by itself."""

    def make_sides(self, scratch: Path) -> list[Side]:
        return [Kernel(scratch)]
