"""Random calls of three users on a mount, whose daemon is killed now and then, and on the host.

A short slice of `python -m tests.torture state-machine`.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.model.mounted import Mounted, one_mount

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("model")
    for path in (directory, *directory.parents):  # pytest's directories are for their owner alone
        path.chmod(path.stat().st_mode | 0o011)
    with one_mount(directory):
        yield


TestMounted = Mounted.TestCase
TestMounted.settings = settings(
    max_examples=3,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
