"""A kernel over a store, a tree of control files, and a quiet log, for all tests here."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.model import ScriptedModel
from nexusfs.contracts.node import Change
from nexusfs.kernel.syscalls import Syscalls
from tests.kernel_fixture import ALICE, ROOT, Workshop, booted, quiet_log, says
from tests.unit.kernel.files import Files
from tests.unit.kernel.trees import Desk, Gateway, Tree, desk_tree

__all__ = ["quiet_log"]


@pytest.fixture(autouse=True)
def _quiet(quiet_log: None) -> None:
    """A warning that nobody expected fails the test."""


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


@pytest.fixture
async def kernel(tmp_path: Path, shop: Workshop) -> AsyncIterator[Kernel]:
    """Its root directory is everybody's; its agents say `done` and chat ones then wait."""
    answers = [says("done") for _ in range(100)]
    async with booted(tmp_path / "store", ScriptedModel(*answers), tools=shop.tools) as kernel:
        await kernel.syscalls.sys_setattr(ROOT, "/", Change(mode=0o777))
        yield kernel


@pytest.fixture
def calls(kernel: Kernel) -> Syscalls:
    return kernel.syscalls


@pytest.fixture
def root(calls: Syscalls) -> Files:
    return Files(calls)


@pytest.fixture
def alice(calls: Syscalls) -> Files:
    return Files(calls, ALICE)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def tree(nursery: trio.Nursery, desk: Desk) -> Tree:
    return desk_tree(nursery, desk)


@pytest.fixture
def gateway(desk: Desk) -> Gateway:
    gateway = Gateway()
    desk.reply = gateway
    return gateway
