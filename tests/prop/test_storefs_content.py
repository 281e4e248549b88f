"""Random writes and cuts of two files, against bytearrays: content, sizes, and no lost blob.

More examples: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_storefs_content.py`.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.node import Change, NewNode
from nexusfs.contracts.store import SIZE_MAX
from nexusfs.drivers.meta_body import WINDOW_BYTES
from nexusfs.drivers.store_local import open_store
from nexusfs.fs.storefs import StoreFile, StoreFS

WHICH = st.integers(0, 1)
OFFSETS = st.one_of(
    st.integers(0, 400),
    st.integers(0, 40_000),
    st.sampled_from([4095, 4096, 8192, WINDOW_BYTES - 100, WINDOW_BYTES]),
)
SIZES = st.one_of(st.integers(1, 400), st.sampled_from([4000, 4095, 4096, 5000, 12_000, 65_536]))
FILLS = st.integers(1, 4)
"""Few, so that the same bytes are written again and share a blob."""


def done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a call suspended")


class ContentModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="nexusfs-content-"))
        self.expected = [bytearray(), bytearray()]
        self._open()

    def _open(self) -> None:
        self.store = open_store(self.scratch / "store")
        self.fs = StoreFS(self.store)
        self.files = [done(self._file(b"%d" % which)) for which in range(2)]

    async def _file(self, name: bytes) -> StoreFile:
        if self.store.meta.readdir(1) and name in [e.name for e in self.store.meta.readdir(1)]:
            node = await self.fs.root.lookup(KERNEL_CRED, name)
        else:
            node = await self.fs.root.create(name, NewNode(stat.S_IFREG | 0o644, 0, 0))
        return await node.open(KERNEL_CRED, os.O_RDWR)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.scratch)

    @rule(which=WHICH, offset=OFFSETS, size=SIZES, fill=FILLS)
    def write(self, which: int, offset: int, size: int, fill: int) -> None:
        data = bytes((fill + n) % 251 for n in range(size))
        expected = self.expected[which]
        expected.extend(bytes(max(0, offset - len(expected))))
        expected[offset : offset + size] = data

        assert done(self.files[which].write(data, offset)) == size

    @rule(which=WHICH, size=SIZES, fill=FILLS)
    def append(self, which: int, size: int, fill: int) -> None:
        self.write(which, len(self.expected[which]), size, fill)

    @rule(which=WHICH, size=OFFSETS)
    def truncate(self, which: int, size: int) -> None:
        expected = self.expected[which]
        del expected[size:]
        expected.extend(bytes(size - len(expected)))

        assert done(self.files[which].node.setattr(Change(size=size))).size == size

    @rule(which=WHICH, offset=OFFSETS, size=SIZES)
    def read(self, which: int, offset: int, size: int) -> None:
        expected = bytes(self.expected[which][offset : offset + size])

        assert done(self.files[which].read(size, offset)) == expected

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @rule()
    def flush(self) -> None:
        self.store.flush()

    @rule(cut=st.sampled_from(["begun", "sealed", "taken", "written"]))
    def flush_partly(self, cut: str) -> None:
        """The next change, and the next flush, come in the middle of this one."""
        round_ = self.store.begin_flush()
        steps = {
            "begun": None,
            "sealed": round_.seal,
            "taken": round_.take,
            "written": round_.write,
        }
        for name, step in steps.items():
            if step is not None:
                step()
            if name == cut:
                return

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self._open()

    @rule()
    def crash(self) -> None:
        """What kill -9 leaves: the files as they are, with whatever is only in memory gone."""
        shutil.copytree(self.scratch / "store", self.scratch / "copy")
        self.store.close()
        shutil.rmtree(self.scratch / "store")
        (self.scratch / "copy").rename(self.scratch / "store")
        self._open()

    @invariant()
    def same_content(self) -> None:
        for file, expected in zip(self.files, self.expected, strict=True):
            assert done(file.read(len(expected) + 1, 0)) == bytes(expected)

    @invariant()
    def sound_extents(self) -> None:
        for file in self.files:
            extents = self.store.meta.extents(file.node.ino, 0, SIZE_MAX)
            ends = [0, *(extent.stop for extent in extents)]
            attr = self.store.meta.getattr(file.node.ino)
            used = sum(extent.length for extent in extents)
            assert all(end <= extent.start for end, extent in zip(ends, extents, strict=False))
            assert ends[-1] <= attr.size
            assert attr.blocks == (used + 4095) // 4096 * 8
            for extent in extents:
                if extent.blob is not None:
                    self.store.blobs.get(extent.blob)


TestContentModel = ContentModel.TestCase
TestContentModel.settings = settings(
    max_examples=int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "30")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
