"""The wall clock."""

import time

from nexusfs.contracts.times import iso


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def now_iso() -> str:
    """The time now, RFC 3339 UTC with milliseconds."""
    return iso(time.time_ns())
