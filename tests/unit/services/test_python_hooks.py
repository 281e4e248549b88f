"""Hooks that a Python package brings along: the entry point group `nexusfs.hooks`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.config import Config
from nexusfs.contracts.errors import AccessError
from tests.kernel_fixture import ALICE
from tests.unit.services.running import world

POLICY = '''
from nexusfs.contracts.errors import AccessError


class Policy:
    """Lets nobody call an agent Mallory."""

    def pre_spawn(self, context):
        if context.agent_id == "mallory":
            raise AccessError("not that one")
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package of one module with this source, whose entry point is its class Policy."""

    def installed(source: str) -> None:
        site = tmp_path / "site"
        info = site / "house_rules-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "house_rules.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-rules\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[nexusfs.hooks]\nrules = house_rules:Policy\n")
        monkeypatch.syspath_prepend(site)

    yield installed
    sys.modules.pop("house_rules", None)


async def test_a_hook_of_a_package_is_found_and_may_refuse(
    tmp_path: Path, install: Callable[[str], None]
) -> None:
    install(POLICY)

    async with world(tmp_path) as w:
        with pytest.raises(AccessError, match="not that one"):
            await w.play(cred=ALICE, name="mallory", mode="chat")
        await w.play(cred=ALICE, name="alice", mode="chat")


@pytest.mark.parametrize("source", ["raise RuntimeError('broken')", "class Policy: ...", "x = 1"])
async def test_a_package_that_cannot_be_used_degrades_the_service_and_is_named(
    tmp_path: Path,
    install: Callable[[str], None],
    source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(source)
    options = BootOptions(tmp_path / "store", Config.model_validate({}), tmp_path / "config.toml")

    async with running_kernel(options) as kernel:
        services = dict(kernel.services)

    assert services["hooks"].startswith("degraded: ")
    assert {services[name] for name in ("agents", "tools", "models", "audit")} == {"running"}
