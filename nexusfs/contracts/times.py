"""Times as the control files show them."""

from datetime import UTC, datetime
from functools import lru_cache


def iso(ns: int) -> str:
    """RFC 3339 UTC with milliseconds, of nanoseconds since 1970."""
    return _millisecond(ns // 1_000_000)


@lru_cache(16)
def _millisecond(ms: int) -> str:
    """Of one step of an agent many events are of the same."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(16)
def _second(seconds: int) -> str:
    """The part up to the second: most times asked for are of the same one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(16)
def ns_of(text: str) -> int:
    """The inverse of `iso`."""
    return int(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000
