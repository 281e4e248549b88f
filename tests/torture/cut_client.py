"""The load of a power-cut test: `python -m tests.torture.cut_client STORE SEED`.

Runs a kernel over the store in this process. Each of several tasks works in a directory of its own,
and tells on stdout, as JSON Lines, each step: {"task", "began", "acked" (CLOCK_MONOTONIC, ns),
"change": {name: what is there then, or null}, "synced": whether all steps before are safe now}.
"""

import hashlib
import json
import os
import random
import sys
import time
from typing import Any

import trio

import nexusfs
from nexusfs.contracts.node import Change
from nexusfs.kernel.bound import BoundSyscalls

TASKS = 4
NAMES = [f"f{number}" for number in range(6)]
SIZES = (10, 100, 1000, 4095, 5000, 30_000, 200_000, 1_500_000)
WEIGHTS = (8, 8, 8, 4, 4, 3, 2, 1)
LARGEST = 3_000_000
PACE_S = 0.002


def digest(content: bytes) -> str:
    """How a content is told and compared."""
    return f"{len(content)} {hashlib.blake2b(content, digest_size=12).hexdigest()}"


class Task:
    """One directory: what is in it, and random steps on it."""

    def __init__(self, nexus: BoundSyscalls, number: int, seed: int) -> None:
        self._nexus = nexus
        self._number = number
        self._random = random.Random(f"{seed} {number}")
        self._files: dict[str, bytes] = {}
        self._top = f"/t{number}"

    async def run(self) -> None:
        """Works until it is cancelled."""
        await self._nexus.sys_mkdir(self._top)
        while True:
            await trio.sleep(self._random.random() * PACE_S)
            step = self._random.choice(
                [self._create, self._write, self._write, self._append, self._append, self._truncate,
                 self._unlink, self._rename, self._replace, self._sync, self._sync_directory]
            )  # fmt: skip
            await step()

    def _path(self, name: str) -> str:
        return f"{self._top}/{name}"

    async def _tell(
        self, call: Any, change: dict[str, bytes | None], *, synced: bool = False
    ) -> Any:
        """Makes a call and tells of it."""
        began = time.monotonic_ns()
        result = await call
        acked = time.monotonic_ns()
        for name, content in change.items():
            if content is None:
                del self._files[name]
            else:
                self._files[name] = content
        told = {name: None if found is None else digest(found) for name, found in change.items()}
        print(json.dumps({
            "task": self._number, "began": began, "acked": acked, "change": told, "synced": synced,
        }), flush=True)  # fmt: skip
        return result

    def _some(self) -> str | None:
        return self._random.choice(sorted(self._files)) if self._files else None

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choices(SIZES, WEIGHTS)[0])

    async def _create(self) -> None:
        free = [name for name in NAMES if name not in self._files]
        if free:
            name = self._random.choice(free)
            opening = self._nexus.sys_open(self._path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            opened = await self._tell(opening, {name: b""})
            await self._nexus.sys_close(opened.fd)

    async def _write(self) -> None:
        name = self._some()
        if name is not None:
            old, data = self._files[name], self._bytes()
            offset = self._random.randint(0, len(old))
            await self._pwrite(name, data, offset)

    async def _append(self) -> None:
        name = self._some()
        if name is not None and len(self._files[name]) < LARGEST:
            await self._pwrite(name, self._bytes(), len(self._files[name]))

    async def _pwrite(self, name: str, data: bytes, offset: int) -> None:
        old = self._files[name]
        opened = await self._nexus.sys_open(self._path(name), os.O_WRONLY)
        new = old[:offset] + data + old[offset + len(data) :]
        await self._tell(self._nexus.sys_write(opened.fd, data, offset), {name: new})
        await self._nexus.sys_close(opened.fd)

    async def _truncate(self) -> None:
        name = self._some()
        if name is not None:
            size = self._random.choice([0, len(self._files[name]) // 2, 5000])
            new = self._files[name][:size].ljust(size, b"\0")
            await self._tell(
                self._nexus.sys_setattr(self._path(name), Change(size=size)), {name: new}
            )

    async def _unlink(self) -> None:
        name = self._some()
        if name is not None:
            await self._tell(self._nexus.sys_unlink(self._path(name)), {name: None})

    async def _rename(self) -> None:
        name = self._some()
        other = self._random.choice(NAMES)
        if name is not None and name != other:
            call = self._nexus.sys_rename(self._path(name), self._path(other))
            await self._tell(call, {other: self._files[name], name: None})

    async def _replace(self) -> None:
        """As editors save: a new file, fsync, rename over the old one."""
        name, data = self._random.choice(NAMES), self._bytes()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        opened = await self._tell(self._nexus.sys_open(self._path("new"), flags), {"new": b""})
        await self._tell(self._nexus.sys_write(opened.fd, data, 0), {"new": data})
        await self._tell(self._nexus.sys_fsync(opened.fd), {}, synced=True)
        await self._nexus.sys_close(opened.fd)
        call = self._nexus.sys_rename(self._path("new"), self._path(name))
        await self._tell(call, {name: data, "new": None})

    async def _sync(self) -> None:
        name = self._some()
        if name is not None:
            opened = await self._nexus.sys_open(self._path(name), os.O_RDONLY)
            await self._tell(self._nexus.sys_fsync(opened.fd), {}, synced=True)
            await self._nexus.sys_close(opened.fd)

    async def _sync_directory(self) -> None:
        opened = await self._nexus.sys_open(self._top, os.O_RDONLY | os.O_DIRECTORY)
        await self._tell(self._nexus.sys_fsync(opened.fd), {}, synced=True)
        await self._nexus.sys_close(opened.fd)


async def main(store: str, seed: int) -> None:
    """Works until it is killed."""
    async with nexusfs.connect(store) as nexus, trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(Task(nexus, number, seed).run)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
