"""rename(2): move, replace, exchange; each one transaction."""

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
from nexusfs.drivers.meta_attr import Attr
from nexusfs.drivers.meta_changes import SetEdge, SetInode, TreeChange
from nexusfs.drivers.meta_state import TreeState

Done = tuple[list[TreeChange], Attr | None]
"""The changes, and what is left of an inode that was replaced."""


class Rename:
    """One call of rename; `source` and `target` are (parent, name)."""

    def __init__(
        self, state: TreeState, source: tuple[int, bytes], target: tuple[int, bytes]
    ) -> None:
        """Looks both names up. NotFoundError, NotDirectoryError."""
        self._state = state
        self._source, self._target = source, target
        for parent, _ in (source, target):
            state.directory_attr(parent)
        self._moved = state.attr(state.lookup(*source))
        existing = state.find(*target)
        self._replaced = state.attr(existing) if existing else None

    def changes(self, flags: int, held: Container[int]) -> Done:
        """What to do; nothing for two names of one inode.

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
            return [], None
        if replaced is not None and exchange:
            return self._exchange(moved, replaced), None
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
            directory = self._state.attr(directory).parent
        return attr.is_dir

    def _refuse_replacing(self) -> None:
        if self._replaced is None:
            return
        if self._moved.is_dir:
            self._state.refuse_unempty(self._replaced, self._target[1])
        elif self._replaced.is_dir:
            raise IsDirectoryError(f"is a directory: {os.fsdecode(self._target[1])!r}")

    def _move(self, held: Container[int]) -> Done:
        now = time.time_ns()
        moved = _placed(self._moved, self._target[0], now)
        done: list[TreeChange] = [SetEdge(*self._source, 0, 0), _edge(self._target, moved)]
        left = None
        if self._replaced is not None:
            left = self._replaced.unlinked(now)
            done.append(self._state.one_name_less(left, held))
        gained = moved.is_dir - (left.is_dir if left else 0)
        done.append(SetInode(moved))
        return done + self._parents(-moved.is_dir, gained, now), left

    def _exchange(self, first: Attr, second: Attr) -> list[TreeChange]:
        now = time.time_ns()
        one = _placed(first, self._target[0], now)
        two = _placed(second, self._source[0], now)
        gained = one.is_dir - two.is_dir
        return [
            _edge(self._target, one),
            _edge(self._source, two),
            SetInode(one),
            SetInode(two),
            *self._parents(-gained, gained, now),
        ]

    def _parents(self, lost: int, gained: int, now: int) -> list[TreeChange]:
        """Both parents with new times; `lost` and `gained` are added to their link counts."""
        source, target = self._source[0], self._target[0]
        here = self._state.directory_attr(source)
        if source == target:
            return [SetInode(here.listed(lost + gained, now))]
        there = self._state.directory_attr(target)
        return [SetInode(here.listed(lost, now)), SetInode(there.listed(gained, now))]


def _edge(at: tuple[int, bytes], attr: Attr) -> TreeChange:
    return SetEdge(*at, attr.ino, _stat.S_IFMT(attr.mode) >> 12)


def _placed(attr: Attr, parent: int, now: int) -> Attr:
    return attr.changed(ctime_ns=now, parent=parent if attr.is_dir else 0)
