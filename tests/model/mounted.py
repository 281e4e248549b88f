"""The machine on a real mount, whose daemon is killed at random."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tests.fuse.conftest import Mounts
from tests.fuse.shell import daemon
from tests.model.host import Host, workers
from tests.model.in_process import InProcess
from tests.model.machine import Machine, Side, make_base
from tests.model.ops import USERS

OPTIONS = ("--allow-other",) if len(USERS) > 1 else ()


class Mount(Host):
    """One side: calls below a directory of a mount, which outlives it."""

    reads_are_seen = False

    def __init__(self, mounts: Mounts, root: Path) -> None:
        super().__init__(str(root))
        self._mounts = mounts

    def end(self, crash: bool) -> None:
        """kill -9 of the daemon, or an unmount, and a new mount."""
        mnt = Path(self.root).parent
        if crash:
            os.kill(daemon(mnt), signal.SIGKILL)
        self.forget()
        if not crash:
            self._mounts.umount(mnt)
        self._mounts.mount("a", *OPTIONS)

    def close(self) -> None:
        """Closes what is open."""
        self.forget()


class Mounted(Machine):
    """A mount. To be used inside `one_mount`."""

    mounts: ClassVar[Mounts]
    mnt: ClassVar[Path]
    count = itertools.count()

    def make_sides(self, scratch: Path) -> list[Side]:
        root = self.mnt / f"tree-{next(self.count)}"
        make_base(root)
        return [Mount(self.mounts, root)]


class Both(Mounted, InProcess):
    """A mount, and the kernel by itself."""

    def make_sides(self, scratch: Path) -> list[Side]:
        return [*Mounted.make_sides(self, scratch), *InProcess.make_sides(self, scratch)]


@contextmanager
def one_mount(directory: Path) -> Iterator[Mounts]:
    """The mount that `Mounted` uses; it, and the processes of users, end with the block."""
    Mounted.mounts = Mounts(directory)
    directory.chmod(0o755)
    try:
        with workers():
            Mounted.mnt = Mounted.mounts.mount("a", *OPTIONS)
            yield Mounted.mounts
    finally:
        Mounted.mounts.close()
