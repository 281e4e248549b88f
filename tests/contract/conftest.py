"""Every implementation that a contract has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexusfs.contracts.store import Store
from nexusfs.contracts.tool import ToolContext, ToolFiles
from nexusfs.drivers.blob_memory import MemoryBlobs
from nexusfs.drivers.store_local import LocalStore, open_store
from nexusfs.fs.storefs import StoreFS
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.vfs.files import Vfs
from nexusfs.kernel.vfs.mounts import MountTable
from nexusfs.kernel.vfs.watch import Watch
from nexusfs.services.tools import WalkSearch
from tests.contract.host_files import HostFiles
from tests.contract.stores import Reopenable
from tests.kernel_fixture import ROOT, BareDispatcher, MemoryJournal


@pytest.fixture(params=["sqlite+local", "sqlite+memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopenable]:
    memory = MemoryBlobs() if request.param == "sqlite+memory" else None
    opened = Reopenable(lambda: LocalStore(tmp_path / "store", blobs=memory))
    yield opened
    opened.store.close()


@pytest.fixture
def store(opened: Reopenable) -> Store:
    return opened.store


@pytest.fixture(params=["host", "kernel"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ToolFiles]:
    """A directory of the host; or system calls over a store, where /proc is a plain directory."""
    if request.param == "host":
        yield HostFiles(tmp_path)
        return
    store = open_store(tmp_path / "store")
    table = BareDispatcher().table
    vfs = Vfs(MountTable(StoreFS(store).root), Watch())
    processes = ProcessTable(MemoryJournal(), table.all_names)
    yield BoundSyscalls(Syscalls(vfs, processes, table), ROOT)
    store.close()


@pytest.fixture
def ctx(files: ToolFiles) -> ToolContext:
    return ToolContext(files, "/", "call_1", WalkSearch(files))
