"""What a close of one descriptor costs the loop."""

import os
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

import mount.operations
from mount.operations import Operations
from nexusfs.contracts.node import Node
from nexusfs.kernel.syscalls import Syscalls


@pytest.mark.parametrize("holds", [True, False])
async def test_the_descriptors_of_a_client_are_looked_at_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    threads: list[int] = []
    flushed: list[int] = []

    def look(process: int) -> set[int]:
        threads.append(threading.get_ident())
        return {77} if holds else set()

    async def flush(fd: int) -> None:
        flushed.append(fd)

    file = SimpleNamespace(
        unfinished=True, node=SimpleNamespace(ino=77), cred=SimpleNamespace(host_pid=os.getpid())
    )
    calls: Any = SimpleNamespace(descriptors=SimpleNamespace(get=lambda fd: file), sys_flush=flush)
    monkeypatch.setattr(mount.operations, "open_inos", look)
    root = cast(Node, SimpleNamespace(ino=1))

    await Operations(cast(Syscalls, calls), root, lambda _: 0).flush(5)

    assert threads and threads[0] != threading.get_ident()
    assert flushed == ([] if holds else [5])
