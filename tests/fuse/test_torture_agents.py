"""A seeded slice of each torture of agents; `python -m tests.torture.agents` runs the whole."""

import pytest

from tests.torture.agents import SCENES
from tests.torture.fan_out import fan_out

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SLICES = {"kill": 4, "umount": 2, "worker": 1, "provider": 8}


@pytest.mark.parametrize("scene", SCENES)
def test_agents_come_through_a_slice_of(scene: str) -> None:
    held, line = SCENES[scene](SLICES[scene], 1)

    assert held, line


def test_every_task_of_a_fan_out_of_20_ends_once_when_the_daemon_is_killed_in_it() -> None:
    held, line = fan_out(5, 1)

    assert held, line
