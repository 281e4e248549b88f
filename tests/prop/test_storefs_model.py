"""Random calls on StoreFS and on a directory of the host: same results, errnos, contents, links.

More examples: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_storefs_model.py`.
"""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nexusfs.contracts.cred import KERNEL_CRED
from nexusfs.contracts.errors import KernelError, NotDirectoryError, NotFoundError, SymlinkLoopError
from nexusfs.contracts.node import Change, NewNode
from nexusfs.drivers.store_local import open_store
from nexusfs.fs.storefs import StoreFile, StoreFS, StoreNode

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.one_of(
    NAMES.map(lambda name: (name,)), st.lists(NAMES, min_size=1, max_size=3).map(tuple)
)
OFFSETS = st.one_of(st.integers(0, 9000), st.sampled_from([4095, 4096, 8192, 100_000, 1 << 33]))
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([4095, 4096, 5000, 70_000]))
FILLS = st.integers(1, 255)
KINDS = st.sampled_from(["file", "dir", "link", "fifo"])

Path_ = tuple[str, ...]
Result = tuple[str, Any]

libc = ctypes.CDLL(None, use_errno=True)


def host(call: Callable[[], Any]) -> Result:
    try:
        return "ok", call()
    except OSError as exc:
        return "error", errno.errorcode[exc.errno or 0]


def ours(coroutine: Coroutine[Any, Any, Any]) -> Result:
    """The result of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return "ok", stop.value
    except KernelError as exc:
        return "error", errno.errorcode[exc.errno]
    raise AssertionError("a call suspended")


def renameat2(source: str, target: str, flags: int) -> None:
    if libc.renameat2(-100, source.encode(), -100, target.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


class StoreModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="nexusfs-model-"))
        self.tree = self.scratch / "tree"
        self.tree.mkdir()
        self.handles: list[tuple[int, StoreFile]] = []
        self._open()

    def _open(self) -> None:
        self.store = open_store(self.scratch / "store")
        self.fs = StoreFS(self.store)

    def teardown(self) -> None:
        for fd, _ in self.handles:
            os.close(fd)
        self.store.close()
        shutil.rmtree(self.scratch)

    # Walking: what the VFS does.

    async def walk(self, path: Path_) -> StoreNode:
        node = self.fs.root
        for name in path:
            if (await node.stat()).is_link:
                raise NotFoundError("all symlinks dangle")
            node = await node.lookup(KERNEL_CRED, name.encode())
        return node

    async def parent(self, path: Path_) -> tuple[StoreNode, bytes]:
        node = await self.walk(path[:-1])
        attr = await node.stat()
        if attr.is_link:
            raise NotFoundError("all symlinks dangle")
        if not attr.is_dir:
            raise NotDirectoryError("not a directory")
        return node, path[-1].encode()

    def at(self, path: Path_) -> str:
        return str(self.tree.joinpath(*path))

    def is_fifo(self, path: Path_) -> bool:
        found = host(lambda: os.lstat(self.at(path)).st_mode)
        return found[0] == "ok" and stat.S_ISFIFO(found[1])

    # Calls

    @rule(path=PATHS, kind=KINDS)
    def create(self, path: Path_, kind: str) -> None:
        at = self.at(path)
        calls: dict[str, tuple[Callable[[], Any], NewNode]] = {
            "file": (
                lambda: os.close(os.open(at, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
                NewNode(stat.S_IFREG | 0o644, 0, 0),
            ),
            "dir": (lambda: os.mkdir(at), NewNode(stat.S_IFDIR | 0o755, 0, 0)),
            "link": (
                lambda: os.symlink("nowhere", at),
                NewNode(stat.S_IFLNK | 0o777, 0, 0, target=b"nowhere"),
            ),
            "fifo": (lambda: os.mkfifo(at), NewNode(stat.S_IFIFO | 0o644, 0, 0)),
        }
        call, new = calls[kind]

        async def create() -> None:
            parent, name = await self.parent(path)
            await parent.create(name, new)

        assert ours(create()) == host(call)

    @rule(source=PATHS, dest=PATHS)
    def link(self, source: Path_, dest: Path_) -> None:
        async def link() -> None:
            node = await self.walk(source)
            parent, name = await self.parent(dest)
            await parent.link(name, node)

        expected = host(lambda: os.link(self.at(source), self.at(dest), follow_symlinks=False))
        assert ours(link()) == expected

    @rule(path=PATHS)
    def unlink(self, path: Path_) -> None:
        async def unlink() -> None:
            parent, name = await self.parent(path)
            await parent.unlink(name)

        assert ours(unlink()) == host(lambda: os.unlink(self.at(path)))

    @rule(path=PATHS)
    def rmdir(self, path: Path_) -> None:
        async def rmdir() -> None:
            parent, name = await self.parent(path)
            await parent.rmdir(name)

        assert ours(rmdir()) == host(lambda: os.rmdir(self.at(path)))

    @rule(source=PATHS, dest=PATHS, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, source: Path_, dest: Path_, flags: int) -> None:
        async def rename() -> None:
            parent, name = await self.parent(source)
            new_parent, new_name = await self.parent(dest)
            await parent.rename(name, new_parent, new_name, flags)

        expected = host(lambda: renameat2(self.at(source), self.at(dest), flags))
        assert ours(rename()) == expected

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: Path_, size: int) -> None:
        async def truncate() -> None:
            node = await self.walk(path)
            if (await node.stat()).is_link:
                raise NotFoundError("all symlinks dangle")
            await node.setattr(Change(size=size))

        assert ours(truncate()) == host(lambda: os.truncate(self.at(path), size))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o755, 0o4711, 0o1777]))
    def chmod(self, path: Path_, mode: int) -> None:
        async def chmod() -> int:
            node = await self.walk(path)
            if (await node.stat()).is_link:
                raise NotFoundError("all symlinks dangle")
            return (await node.setattr(Change(mode=mode))).mode

        def expected() -> int:
            os.chmod(self.at(path), mode)
            return os.stat(self.at(path)).st_mode

        assert ours(chmod()) == host(expected)

    @rule(path=PATHS, extra=st.sampled_from([0, 0, os.O_APPEND, os.O_TRUNC]))
    def open(self, path: Path_, extra: int) -> None:
        if self.is_fifo(path):
            return
        flags = os.O_RDWR | os.O_NOFOLLOW | extra

        async def open_() -> StoreFile:
            node = await self.walk(path)
            if (await node.stat()).is_link:
                raise SymlinkLoopError("not followed")
            return await node.open(KERNEL_CRED, flags)

        found, expected = ours(open_()), host(lambda: os.open(self.at(path), flags))
        assert found[0] == expected[0]
        if found[0] == "ok":
            self.handles.append((expected[1], found[1]))
        else:
            assert found == expected

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 1 << 20), offset=OFFSETS, size=SIZES, fill=FILLS)
    def write(self, which: int, offset: int, size: int, fill: int) -> None:
        fd, file = self.handles[which % len(self.handles)]
        data = bytes((fill + n) % 256 for n in range(min(size, 300))) * (max(size, 300) // 300)

        # Linux's pwrite appends to an O_APPEND file too.
        assert ours(file.write(data, offset)) == host(lambda: os.pwrite(fd, data, offset))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 1 << 20), offset=OFFSETS, size=SIZES)
    def read(self, which: int, offset: int, size: int) -> None:
        fd, file = self.handles[which % len(self.handles)]

        assert ours(file.read(size, offset)) == host(lambda: os.pread(fd, size, offset))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 1 << 20))
    def fstat(self, which: int) -> None:
        fd, file = self.handles[which % len(self.handles)]
        expected = os.fstat(fd)

        _, found = ours(file.node.stat())

        assert (found.size, found.nlink) == (expected.st_size, expected.st_nlink)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 1 << 20))
    def close(self, which: int) -> None:
        fd, file = self.handles.pop(which % len(self.handles))
        os.close(fd)

        assert ours(file.release()) == ("ok", None)

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @rule()
    def reopen(self) -> None:
        while self.handles:
            self.close(0)
        self.store.close()
        self._open()

    # What must hold after each call

    @invariant()
    def same_trees(self) -> None:
        assert ours(self.tree_of(self.fs.root))[1] == self.host_tree(self.tree)

    async def tree_of(self, node: StoreNode) -> dict[str, Any]:
        found: dict[str, Any] = {".": (await node.stat()).nlink}
        for entry in await node.entries(KERNEL_CRED):
            child = await node.lookup(KERNEL_CRED, entry.name)
            attr = await child.stat()
            assert (attr.ino, stat.S_IFMT(attr.mode)) == (entry.ino, entry.kind)
            if attr.is_dir:
                found[entry.name.decode()] = await self.tree_of(child)
            else:
                content = await self.content_of(child, attr.size) if attr.is_file else b""
                found[entry.name.decode()] = (entry.kind, attr.nlink, attr.size, content)
        return found

    async def content_of(self, node: StoreNode, size: int) -> bytes:
        file = await node.open(KERNEL_CRED, os.O_RDONLY | os.O_NOATIME)
        content = await file.read(20_000, 0) + await file.read(20_000, max(0, size - 20_000))
        await file.release()
        return content

    def host_tree(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {".": path.stat().st_nlink}
        for child in path.iterdir():
            attr = child.lstat()
            if stat.S_ISDIR(attr.st_mode):
                found[child.name] = self.host_tree(child)
                continue
            content = b""
            if stat.S_ISREG(attr.st_mode):
                with child.open("rb") as file:
                    content = file.read(20_000)
                    file.seek(max(0, attr.st_size - 20_000))
                    content += file.read(20_000)
            found[child.name] = (stat.S_IFMT(attr.st_mode), attr.st_nlink, attr.st_size, content)
        return found


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(
    max_examples=int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "30")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
