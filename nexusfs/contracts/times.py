"""Times as the control files show them."""

from datetime import UTC, datetime


def iso(ns: int) -> str:
    """RFC 3339 UTC with milliseconds, of nanoseconds since 1970."""
    return (
        datetime.fromtimestamp(ns / 1e9, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def ns_of(text: str) -> int:
    """The inverse of `iso`."""
    return int(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000
