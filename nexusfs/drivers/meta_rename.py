"""rename(2) in SQL: move, replace, exchange; each one transaction."""

import os
import stat as _stat
import time
from collections.abc import Container

from nexusfs.contracts.errors import (
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NotEmptyError,
    NotFoundError,
)
from nexusfs.contracts.node import RENAME_EXCHANGE, RENAME_NOREPLACE
from nexusfs.contracts.store import ROOT_INO
from nexusfs.drivers.meta_cache import Attr
from nexusfs.drivers.meta_inodes import DELETE_EDGE, INSERT_EDGE, UPDATE_EDGE, Inodes, unlinked


class Rename:
    """One call of rename; `source` and `target` are (parent, name)."""

    def __init__(
        self, inodes: Inodes, source: tuple[int, bytes], target: tuple[int, bytes]
    ) -> None:
        """Looks both names up. NotFoundError, NotDirectoryError."""
        self._inodes = inodes
        self._source, self._target = source, target
        for parent, _ in (source, target):
            inodes.directory(parent)
        self._moved = inodes.attr(inodes.lookup(*source))
        existing = inodes.find(*target)
        self._replaced = inodes.attr(existing) if existing else None

    def run(self, flags: int, held: Container[int]) -> Attr | None:
        """Renames and returns what is left of an inode that was replaced.

        The order of the checks is Linux's, fs/namei.c do_renameat2 and vfs_rename.
        """
        moved, replaced = self._moved, self._replaced
        self._check_flags(flags)
        exchange = bool(flags & RENAME_EXCHANGE)
        if self._below(moved, self._target[0]):
            raise InvalidError("a directory cannot be moved below itself")
        if replaced is not None and self._below(replaced, self._source[0]):
            if exchange:
                raise InvalidError("a directory cannot be exchanged with one below it")
            raise NotEmptyError(f"directory not empty: {os.fsdecode(self._target[1])!r}")
        if replaced is not None and replaced.ino == moved.ino:
            return None
        if replaced is not None and exchange:
            self._exchange(moved, replaced)
            return None
        self._refuse_replacing()
        return self._move(held)

    def _check_flags(self, flags: int) -> None:
        name = os.fsdecode(self._target[1])
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == 3:
            raise InvalidError(f"rename flags {flags:#x} are not known or not together")
        if flags & RENAME_NOREPLACE and self._replaced:
            raise ExistsError(f"exists: {name!r}")
        if flags & RENAME_EXCHANGE and not self._replaced:
            raise NotFoundError(f"no such file or directory: {name!r}")

    def _below(self, attr: Attr, directory: int) -> bool:
        """True when `directory` is `attr` or somewhere below it."""
        while attr.is_dir and directory != attr.ino:
            if directory == ROOT_INO:
                return False
            directory = self._inodes.parent(directory)
        return attr.is_dir

    def _refuse_replacing(self) -> None:
        if self._replaced is None:
            return
        if self._moved.is_dir:
            self._inodes.refuse_unempty(self._replaced, self._target[1])
        elif self._replaced.is_dir:
            raise IsDirectoryError(f"is a directory: {os.fsdecode(self._target[1])!r}")

    def _move(self, held: Container[int]) -> Attr | None:
        inodes, db, now = self._inodes, self._inodes.db, time.time_ns()
        moved = self._moved.changed(ctime_ns=now)
        left = unlinked(self._replaced, now) if self._replaced else None
        gained = moved.is_dir - (left.is_dir if left else 0)
        parents = self._parents(-moved.is_dir, gained, now)
        edit = None
        with db:
            db.run(DELETE_EDGE, self._source)
            if left is not None:
                db.run(DELETE_EDGE, self._target)
                edit = inodes.save_or_erase(left, held)
            db.run(INSERT_EDGE, (*self._target, moved.ino, _stat.S_IFMT(moved.mode)))
            inodes.place(moved, self._target[0])
            for parent in parents:
                inodes.save(parent)
        inodes.remember(moved, *parents)
        if left is not None:
            inodes.settle(left, edit)
        inodes.set_name(*self._source, 0)
        inodes.set_name(*self._target, moved.ino)
        return left

    def _exchange(self, first: Attr, second: Attr) -> None:
        inodes, db, now = self._inodes, self._inodes.db, time.time_ns()
        one, two = first.changed(ctime_ns=now), second.changed(ctime_ns=now)
        gained = one.is_dir - two.is_dir
        parents = self._parents(-gained, gained, now)
        with db:
            db.run(UPDATE_EDGE, (one.ino, _stat.S_IFMT(one.mode), *self._target))
            db.run(UPDATE_EDGE, (two.ino, _stat.S_IFMT(two.mode), *self._source))
            inodes.place(one, self._target[0])
            inodes.place(two, self._source[0])
            for parent in parents:
                inodes.save(parent)
        inodes.remember(one, two, *parents)
        inodes.set_name(*self._target, one.ino)
        inodes.set_name(*self._source, two.ino)

    def _parents(self, lost: int, gained: int, now: int) -> list[Attr]:
        """Both parents with new times; `lost` and `gained` are added to their link counts."""
        source, target = self._source[0], self._target[0]
        here = self._inodes.directory(source)
        if source == target:
            return [here.changed(nlink=here.nlink + lost + gained, mtime_ns=now, ctime_ns=now)]
        there = self._inodes.directory(target)
        return [
            here.changed(nlink=here.nlink + lost, mtime_ns=now, ctime_ns=now),
            there.changed(nlink=there.nlink + gained, mtime_ns=now, ctime_ns=now),
        ]
