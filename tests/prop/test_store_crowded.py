"""Random calls on a store whose caches hold next to nothing, between the steps of flushes.

What is looked at is seldom, and little: most faults of caches hide from who reads all of it often.
More examples: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_store_crowded.py`.
"""

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.node import Change, NewNode
from nexusfs.contracts.store import ROOT_INO
from nexusfs.drivers import meta_body, meta_state
from nexusfs.drivers.blob_local import LocalBlobs
from nexusfs.drivers.flush import FlushRound
from nexusfs.drivers.meta_body import WINDOW_BYTES
from nexusfs.drivers.store_local import LocalStore
from nexusfs.fs.content import Content

FILE, DIR = NewNode(stat.S_IFREG | 0o644, 0, 0), NewNode(stat.S_IFDIR | 0o755, 0, 0)
LIMITS = {
    (meta_state, "INODES_MAX"): 3,
    (meta_state, "NAMES_MAX"): 4,
    (meta_state, "BLOBS_MAX"): 3,
    (meta_state, "LOADED_BYTES"): 9000,
    (meta_body, "WINDOWS_MAX"): 2,
}
STEPS = ("seal", "take", "write", "end")
PARENTS = st.integers(0, 1)
NAMES = st.integers(0, 2).map(lambda number: b"n%d" % number)
SIZES = st.sampled_from([1, 50, 3000, 5000, 70_000])
OFFSETS = st.sampled_from([0, 20, 3000, 6000, *(n * WINDOW_BYTES - 9 for n in range(1, 5))])
FILLS = st.integers(1, 3)
"""Few: equal contents share a blob."""


class CrowdedStore(RuleBasedStateMachine):
    """A directory and the root; files may have several names, in each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="nexusfs-crowded-"))
        self.patch = pytest.MonkeyPatch()
        for (module, name), value in LIMITS.items():
            self.patch.setattr(module, name, value)
        self.names: dict[tuple[int, bytes], int] = {}
        self.contents: dict[int, bytearray] = {}
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        self._open()
        self.parents = [ROOT_INO, self.store.meta.create(ROOT_INO, b"d", DIR).ino]

    def _open(self) -> None:
        blobs = LocalBlobs(self.scratch / "all/blobs", segment_bytes=100_000)
        self.store = LocalStore(self.scratch / "all/store", blobs=blobs)
        self.content = Content(self.store)
        self.round: FlushRound | None = None
        self.at = 0

    def teardown(self) -> None:
        self.round = None
        self.store.close()
        self.patch.undo()
        shutil.rmtree(self.scratch)

    def _file(self, parent: int, name: bytes) -> int:
        """The file of a name, made if there is none."""
        key = (self.parents[parent], name)
        if key not in self.names:
            ino = self.store.meta.create(*key, FILE).ino
            self.names[key] = ino
            self.contents[ino], self.xattrs[ino] = bytearray(), {}
        return self.names[key]

    def _links(self, ino: int) -> int:
        return list(self.names.values()).count(ino)

    def _forget(self, ino: int | None) -> None:
        if ino is not None and not self._links(ino):
            del self.contents[ino], self.xattrs[ino]

    @rule(parent=PARENTS, name=NAMES, offset=OFFSETS, size=SIZES, fill=FILLS)
    def write(self, parent: int, name: bytes, offset: int, size: int, fill: int) -> None:
        ino = self._file(parent, name)
        data = bytes((fill + n) % 251 for n in range(size))
        expected = self.contents[ino]
        expected.extend(bytes(max(0, offset - len(expected))))
        expected[offset : offset + size] = data
        self.content.write(ino, data, offset)

    @rule(parent=PARENTS, name=NAMES, quarters=st.sampled_from([0, 1, 2, 3, 5]))
    def truncate(self, parent: int, name: bytes, quarters: int) -> None:
        """To a share of the length, or beyond it."""
        ino = self._file(parent, name)
        expected = self.contents[ino]
        size = len(expected) * quarters // 4
        del expected[size:]
        expected.extend(bytes(size - len(expected)))
        self.store.meta.setattr(ino, Change(size=size))

    @rule(parent=PARENTS, name=NAMES, key=st.sampled_from([b"user.a", b"user.b"]), size=SIZES)
    def setxattr(self, parent: int, name: bytes, key: bytes, size: int) -> None:
        ino = self._file(parent, name)
        self.xattrs[ino][key] = bytes(size % 5001)
        self.store.meta.setxattr(ino, key, self.xattrs[ino][key])

    @rule(parent=PARENTS, name=NAMES)
    def unlink(self, parent: int, name: bytes) -> None:
        key = (self.parents[parent], name)
        if key in self.names:
            self.store.meta.unlink(*key)
            self._forget(self.names.pop(key))

    @rule(parent=PARENTS, name=NAMES, to=PARENTS, new=NAMES)
    def link(self, parent: int, name: bytes, to: int, new: bytes) -> None:
        key = (self.parents[to], new)
        ino = self._file(parent, name)
        if key not in self.names:
            self.store.meta.link(*key, ino)
            self.names[key] = ino

    @rule(parent=PARENTS, name=NAMES, to=PARENTS, new=NAMES)
    def rename(self, parent: int, name: bytes, to: int, new: bytes) -> None:
        ino = self._file(parent, name)
        source, target = (self.parents[parent], name), (self.parents[to], new)
        if self.names.get(target) != ino:
            self.store.meta.rename(source, target)
            replaced = self.names.get(target)
            self.names[target] = self.names.pop(source)
            self._forget(replaced)

    @rule(parent=PARENTS, name=NAMES, offset=OFFSETS, size=SIZES)
    def read(self, parent: int, name: bytes, offset: int, size: int) -> None:
        ino = self._file(parent, name)
        expected = self.contents[ino]
        stop = min(offset + size, len(expected))
        if offset < stop:
            assert self.content.read(ino, offset, stop) == bytes(expected[offset:stop])

    @rule(parent=PARENTS, name=NAMES)
    def look(self, parent: int, name: bytes) -> None:
        key = (self.parents[parent], name)
        ino = self.store.meta.find(*key)
        assert ino == self.names.get(key, 0)
        if ino:
            st_ = self.store.meta.getattr(ino)
            assert (st_.nlink, st_.size) == (self._links(ino), len(self.contents[ino]))
            found = {n: self.store.meta.getxattr(ino, n) for n in self.store.meta.listxattr(ino)}
            assert found == self.xattrs[ino]

    @rule(parent=PARENTS)
    def list(self, parent: int) -> None:
        ino = self.parents[parent]
        expected = {name for where, name in self.names if where == ino}
        found = {entry.name for entry in self.store.meta.readdir(ino)}
        assert found - {b"d"} == expected

    @rule(refused=st.booleans())
    def step(self, refused: bool) -> None:
        """The next step of a flush; storing may be refused by the disk."""
        if self.round is None:
            self.round, self.at = self.store.begin_flush(), 0
            return
        name = STEPS[self.at]
        with pytest.MonkeyPatch.context() as patch, suppress(KernelError):
            if refused and name == "write":
                patch.setattr(self.store._tables, "store", _refuse)
                self.at = STEPS.index("end") - 1
            getattr(self.round, name)()
        self.at += 1
        if self.at == len(STEPS):
            self.round = None

    @rule(fresh=st.booleans())
    def flush_or_sync(self, fresh: bool) -> None:
        self.store.flush() if fresh else self.store.sync()
        if fresh:
            self.round = None

    @rule(kill=st.booleans())
    def reopen(self, kill: bool) -> None:
        """After a clean end, or after kill -9: what is only in memory is gone."""
        if kill:
            shutil.copytree(self.scratch / "all", self.scratch / "copy")
        self.store.close()
        if kill:
            shutil.rmtree(self.scratch / "all")
            (self.scratch / "copy").rename(self.scratch / "all")
        self._open()

    @precondition(lambda self: self.contents)
    @rule()
    def read_all(self) -> None:
        for ino, expected in self.contents.items():
            if expected:
                assert self.content.read(ino, 0, len(expected)) == bytes(expected)


def _refuse(batch: Any) -> None:
    raise KernelError("the store's disk: Input/output error")


TestCrowdedStore = CrowdedStore.TestCase
TestCrowdedStore.settings = settings(
    max_examples=int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "40")),
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
