"""The log stays quiet in all tests of agents."""

import pytest

from tests.kernel_fixture import quiet_log

__all__ = ["quiet_log"]


@pytest.fixture(autouse=True)
def _quiet(quiet_log: None) -> None:
    """A warning that nobody expected fails the test."""
