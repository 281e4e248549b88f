"""The wall clock."""

import time

from nexusfs.contracts.times import iso

now_ns = time.time_ns
"""Nanoseconds since 1970; dozens of times in a step of an agent, so it is no function of ours."""


def now_iso() -> str:
    """The time now, RFC 3339 UTC with milliseconds."""
    return iso(now_ns())
