"""A mount for each kind of sandbox, and agents on it."""

from collections.abc import Iterator

import pytest

from tests.fuse.conftest import Mounts, reachable_mounts
from tests.fuse.programs import LANDLOCK
from tests.fuse.sandbox.boxes import LIMITS, Held
from tests.fuse.shell import end, idle, read


@pytest.fixture(scope="module")
def reachable() -> Iterator[Mounts]:
    with reachable_mounts() as made:
        yield made


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def box(request: pytest.FixtureRequest, reachable: Mounts) -> Held:
    env = {**LIMITS, **(LANDLOCK if request.param == "landlock" else {})}
    mnt = reachable.mount(request.param, "--allow-other", env=env)
    return Held(request.param, mnt, reachable.store(request.param))


@pytest.fixture
def agent(box: Held) -> Iterator[int]:
    pid = idle(box.mnt)
    assert f"Sandbox:\t{box.kind}\n" in read(box.mnt, pid, "status")
    yield pid
    end(box.mnt, pid)


@pytest.fixture
def other(box: Held) -> Iterator[int]:
    """Another agent of the same user."""
    pid = idle(box.mnt)
    yield pid
    end(box.mnt, pid)
