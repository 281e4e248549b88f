"""kill -9 of the daemon: under load (a short slice of `tests.torture kills`), and at its start."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import NEXUSFS, Mounts
from tests.fuse.shell import until
from tests.torture.kills import run_kills

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mounts]:
    made = Mounts(tmp_path)
    yield made
    made.close()


def test_kill_9_loses_nothing_that_was_acknowledged(own: Mounts) -> None:
    done, _ = run_kills(own, seed=1, rounds=4)

    assert done > 0


def test_a_daemon_that_died_before_anybody_looked_is_followed_by_the_next(own: Mounts) -> None:
    mnt = own.directory / "mnt-a"
    mnt.mkdir()
    words = [NEXUSFS, "mount", "-f", str(mnt), "--store", str(own.store())]
    with subprocess.Popen(words, env=own.environment(), stderr=subprocess.DEVNULL) as daemon:
        until(lambda: str(mnt) in Path("/proc/self/mounts").read_text())
        daemon.kill()

    assert (own.mount() / "sys/version").read_text()
