"""Checkpoints as ordinary files: /home/<agent>/checkpoints/<64 hex>, and index.json beside them.

The name is the SHA-256 of the content, so a file can be copied to another store and is known there.
The index is a convenience for people and says what was written when; a file that came by `cp` is
found without it, one that went by `rm` is not listed.

Concurrency: writing a checkpoint and its index is one section under a lock of the agent's name, so
ten at once are all kept.
"""

import json
import os
import re
import time
from dataclasses import asdict
from weakref import WeakValueDictionary

import trio
from pydantic import ConfigDict, TypeAdapter

from nexusfs.contracts.checkpoint import CheckpointInfo, Snapshot, decoded, encoded, hash_of
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    CorruptError,
    IsDirectoryError,
    KernelError,
    NotDirectoryError,
    NotFoundError,
)
from nexusfs.contracts.times import iso
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.services.homes import Homes

AUTOMATIC_KEPT = 10
"""Automatic checkpoints of one agent; older ones are removed. Those that were asked for stay."""
INDEX = "index.json"
_ROWS = TypeAdapter(list[CheckpointInfo], config=ConfigDict(strict=True))
_HASH = re.compile(r"[0-9a-f]{64}")


class CheckpointFiles:
    """Checkpoints in the homes of one tree; see `contracts.checkpoint.Checkpoints`."""

    def __init__(self, calls: Syscalls, homes: Homes) -> None:
        """Reads and writes through `calls`, with the rights of whoever asks."""
        self._calls = calls
        self._homes = homes
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def save(
        self, cred: Credentials, snapshot: Snapshot, *, automatic: bool = False
    ) -> CheckpointInfo:
        """Writes a checkpoint and its line of the index; one that was asked for is on disk then."""
        data = encoded(snapshot)
        now = iso(time.time_ns())
        info = CheckpointInfo(
            hash_of(data),
            snapshot.agent_id,
            snapshot.pid,
            snapshot.turns,
            now,
            len(data),
            automatic,
            snapshot.zone,
        )
        lock = self._locks.setdefault(snapshot.agent_id, trio.Lock())
        async with lock:
            directory = await self._homes.directory(cred, snapshot.agent_id, "checkpoints")
            folder = _Folder(BoundSyscalls(self._calls, cred), directory)
            await folder.put(info.checkpoint_hash, data, durable=not automatic)
            others = [i for i in await folder.listed() if i.checkpoint_hash != info.checkpoint_hash]
            await folder.write_index(await folder.pruned([info, *others]))
        return info

    async def load(self, cred: Credentials, checkpoint_hash: str, agent_id: str | None) -> Snapshot:
        """The state of a checkpoint, looked for in that agent's home, else in any."""
        files = BoundSyscalls(self._calls, cred)
        homes = [f"/home/{agent_id}"] if agent_id else []
        changed = ""
        for home in homes or [f"/home/{name}" for name in await self._agents(files)]:
            path = f"{home}/checkpoints/{checkpoint_hash}"
            try:
                data = await files.read_file(path)
            except (NotFoundError, NotDirectoryError, IsDirectoryError, AccessError):
                continue
            if hash_of(data) == checkpoint_hash:
                return decoded(data)
            changed = changed or path  # anybody may name a file so: a good one may follow
        if changed:
            raise CorruptError(f"{changed}: the content is not what its name says")
        where = f"of agent {agent_id!r}" if agent_id else "in /home"
        raise NotFoundError(
            f"no checkpoint {checkpoint_hash[:12]}… {where} that you may read: index.json in its "
            "checkpoints/ lists what there is"
        )

    async def listed(
        self, cred: Credentials, agent_id: str, limit: int | None = None
    ) -> list[CheckpointInfo]:
        """Those of one agent, newest first; none when it has no home that the caller may read."""
        folder = _Folder(BoundSyscalls(self._calls, cred), f"/home/{agent_id}/checkpoints")
        try:
            return (await folder.listed())[:limit]
        except (NotFoundError, AccessError):
            return []

    async def delete(self, cred: Credentials, agent_id: str, checkpoint_hash: str) -> bool:
        """Removes one, and its line of the index."""
        if not _HASH.fullmatch(checkpoint_hash):
            return False
        files = BoundSyscalls(self._calls, cred)
        folder = _Folder(files, f"/home/{agent_id}/checkpoints")
        async with self._locks.setdefault(agent_id, trio.Lock()):
            try:
                await files.sys_unlink(f"{folder.path}/{checkpoint_hash}")
            except NotFoundError:
                return False
            await folder.write_index(await folder.listed())
        return True

    async def _agents(self, files: BoundSyscalls) -> list[str]:
        return sorted(await _names(files, "/home"))


async def _names(files: BoundSyscalls, path: str) -> list[str]:
    return [entry.name.decode("utf-8", "replace") for entry in await files.list_dir(path)]


class _Folder:
    """One directory of checkpoints, with somebody's rights."""

    def __init__(self, files: BoundSyscalls, path: str) -> None:
        self.path = path
        self._files = files

    async def put(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Writes a whole file under its name, or nothing: readers never see half of one."""
        new = f"{self.path}/.{name}.new"
        await self._files.write_file(new, data)
        if durable:
            opened = await self._files.sys_open(new, os.O_RDONLY)
            try:
                await self._files.sys_fsync(opened.fd)
            finally:
                await self._files.sys_close(opened.fd)
        await self._files.sys_rename(new, f"{self.path}/{name}")

    async def listed(self) -> list[CheckpointInfo]:
        """What is there, newest first: as the index has it, and what came without it by its time.

        A clock that was put back changes no order.
        """
        there = {n for n in await _names(self._files, self.path) if _HASH.fullmatch(n)}
        found = [info for info in await self._index() if info.checkpoint_hash in there]
        strange = there - {info.checkpoint_hash for info in found}
        came = [info for name in strange if (info := await self._looked_at(name))]
        for info in sorted(came, key=lambda info: info.created_at):
            older = (n for n, one in enumerate(found) if one.created_at <= info.created_at)
            found.insert(next(older, len(found)), info)
        return found

    async def pruned(self, infos: list[CheckpointInfo]) -> list[CheckpointInfo]:
        """The list without automatic ones over the limit, whose files are removed."""
        old = [info for info in infos if info.automatic][AUTOMATIC_KEPT:]
        for info in old:
            await self._files.sys_unlink(f"{self.path}/{info.checkpoint_hash}")
        return [info for info in infos if info not in old]

    async def write_index(self, infos: list[CheckpointInfo]) -> None:
        """Writes index.json anew."""
        rows = [asdict(info) for info in infos]
        await self.put(INDEX, json.dumps(rows, indent=2).encode() + b"\n")

    async def _index(self) -> list[CheckpointInfo]:
        """The index; empty when there is none, or it is not one: people may write it."""
        try:
            return _ROWS.validate_json(await self._files.read_file(f"{self.path}/{INDEX}"))
        except (KernelError, ValueError):
            return []

    async def _looked_at(self, name: str) -> CheckpointInfo | None:
        """What a checkpoint says of itself, for one that came by cp; None when it is none."""
        path = f"{self.path}/{name}"
        try:
            data = await self._files.read_file(path)
            snapshot = decoded(data)
            made_ns = (await self._files.stat(path)).mtime_ns
        except KernelError:
            return None
        return CheckpointInfo(
            name, snapshot.agent_id, snapshot.pid, snapshot.turns, iso(made_ns), len(data),
            zone=snapshot.zone,
        )  # fmt: skip
