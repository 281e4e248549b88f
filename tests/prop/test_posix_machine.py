"""Random calls of three users on the kernel in process and in a directory of the host.

Results, errnos, attributes, contents, which times moved, and what a crash leaves. The host's side
takes the place of users, so it needs root; anybody else compares what he himself may do.

More: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_posix_machine.py`.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.model.host import workers
from tests.model.in_process import InProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    with workers():
        yield


TestInProcess = InProcess.TestCase
TestInProcess.settings = settings(
    max_examples=int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "30")),
    stateful_step_count=50,
    deadline=None,
    derandomize="NEXUSFS_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
