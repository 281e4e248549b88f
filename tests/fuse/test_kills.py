"""kill -9 of the daemon under load: a short slice of `python -m tests.torture kills`."""

import pytest

from tests.fuse.conftest import Mounts
from tests.torture.kills import run_kills

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def test_kill_9_loses_nothing_that_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    done, _ = run_kills(Mounts(tmp_path_factory.mktemp("kills")), seed=1, rounds=4)

    assert done > 0
