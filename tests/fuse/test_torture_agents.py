"""A seeded slice of each torture of agents; `python -m tests.torture.agents` runs the whole."""

import pytest

from tests.torture.agents import SCENES

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SLICES = {"kill": 4, "umount": 2, "worker": 1, "provider": 8}


@pytest.mark.parametrize("scene", SCENES)
def test_agents_come_through_a_slice_of(scene: str) -> None:
    held, line = SCENES[scene](SLICES[scene], 1)

    assert held, line
