"""The last control errors of each user, for sys/error_log."""

import json
from collections import defaultdict, deque

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError, errno_of
from nexusfs.kernel.clock import now_iso

KEPT_PER_USER = 100
"""Source: docs/tree.md, /sys."""
MESSAGE_CHARS = 2000
"""Of a message, or a path: an error may quote all of the 4 MiB that were wrong."""


class ErrorLog:
    """The last 100 control errors per user id."""

    def __init__(self) -> None:
        """Empty."""
        self._lines: defaultdict[int, deque[bytes]] = defaultdict(
            lambda: deque(maxlen=KEPT_PER_USER)
        )

    def add(self, cred: Credentials, path: str, op: str, exc: KernelError) -> None:
        """Keeps one error."""
        entry = {
            "time": now_iso(),
            "path": _cut(path),
            "op": op,
            "errno": errno_of(exc),
            "message": _cut(str(exc)),
        }
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")
        self._lines[cred.uid].append(line + b"\n")

    def lines(self, cred: Credentials) -> bytes:
        """JSON Lines {time, path, op, errno, message}, oldest first; root's own only, too."""
        return b"".join(self._lines.get(cred.uid, ()))


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS else f"{text[:MESSAGE_CHARS]}…"
