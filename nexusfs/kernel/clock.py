"""Wall-clock times as the control files show them."""

import time
from datetime import UTC, datetime


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def iso(ns: int) -> str:
    """RFC 3339 UTC with milliseconds."""
    return (
        datetime.fromtimestamp(ns / 1e9, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def ns_of(text: str) -> int:
    """The inverse of `iso`."""
    return int(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000


def now_iso() -> str:
    """The time now, RFC 3339 UTC with milliseconds."""
    return iso(time.time_ns())
