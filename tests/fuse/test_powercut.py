"""Power cuts: nothing that was synced is lost, nothing is corrupt.

A short slice of `python -m tests.torture powercut garble`.
"""

from pathlib import Path

import pytest

from tests.torture.powercut import run_cuts

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.mark.parametrize("garble", [False, True], ids=["lost", "garbled"])
def test_a_power_cut_loses_nothing_that_was_synced(tmp_path: Path, garble: bool) -> None:
    steps, _ = run_cuts(tmp_path, seed=1, count=8, garble=garble)

    assert steps > 100
