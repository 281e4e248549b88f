"""ToolFiles over a directory of the host: the simplest thing that the tools must work on."""

import contextlib
import errno
import os
import stat as _stat
from collections.abc import Iterator
from pathlib import Path

from nexusfs.contracts.errors import (
    AccessError,
    CorruptError,
    InvalidError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    SymlinkLoopError,
)
from nexusfs.contracts.node import DirEntry, Stat

_ERRORS = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotDirectoryError,
    errno.EISDIR: IsDirectoryError,
    errno.EACCES: AccessError,
    errno.ELOOP: SymlinkLoopError,
    errno.EINVAL: InvalidError,
}


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        kind = _ERRORS.get(exc.errno or 0, CorruptError)
        raise kind(f"{os.strerror(exc.errno or errno.EIO)}: {path!r}") from exc


class HostFiles:
    """The files below `root`, whose paths start at `/`; symlinks may lead out of it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _host(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    async def read_file(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        with _translated(path), self._host(path).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)

    async def write_file(self, path: str, data: bytes, *, append: bool = False) -> int:
        with _translated(path), self._host(path).open("ab" if append else "wb") as file:
            return file.write(data)

    async def list_dir(self, path: str) -> list[DirEntry]:
        with _translated(path):
            found = [
                (os.fsencode(one.name), one.stat(follow_symlinks=False))
                for one in os.scandir(self._host(path))
            ]
        return [DirEntry(name, stat.st_ino, _stat.S_IFMT(stat.st_mode)) for name, stat in found]

    async def list_page(
        self, path: str, start: int, count: int
    ) -> tuple[int, list[tuple[DirEntry, Stat | None]]]:
        entries = sorted(await self.list_dir(path))
        page: list[tuple[DirEntry, Stat | None]] = [
            (one, await self.stat(f"{path}/{os.fsdecode(one.name)}", follow=False))
            for one in entries[start : start + count]
        ]
        return len(entries), page

    async def stat(self, path: str, *, follow: bool = True) -> Stat:
        with _translated(path):
            stat = self._host(path).stat(follow_symlinks=follow)
        return Stat(
            ino=stat.st_ino, mode=stat.st_mode, nlink=stat.st_nlink, uid=stat.st_uid,
            gid=stat.st_gid, size=stat.st_size, atime_ns=stat.st_atime_ns,
            mtime_ns=stat.st_mtime_ns, ctime_ns=stat.st_ctime_ns,
        )  # fmt: skip

    async def access(self, path: str, mode: int) -> bool:
        return os.access(self._host(path), mode)

    async def make_dirs(self, path: str) -> None:
        with _translated(path):
            self._host(path).mkdir(parents=True, exist_ok=True)
