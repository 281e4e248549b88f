"""NexusFS: an agent kernel that is mounted as a filesystem.

Python's door: `connect` (async on trio) and `connect_sync` (plain), and `AgentSpec` with
`parse_spec` for what to spawn. They are imported when first used, so that the client commands
start quickly.
"""

from importlib import import_module
from typing import Any

_DOOR = {
    "connect": "nexusfs.boot.connect",
    "connect_sync": "nexusfs.boot.connect",
    "AgentSpec": "nexusfs.contracts.agent",
    "parse_spec": "nexusfs.contracts.agent",
    "tool": "nexusfs.contracts.tool",
}

__all__ = ["AgentSpec", "connect", "connect_sync", "parse_spec", "tool"]


def __getattr__(name: str) -> Any:
    """What the package offers, imported now."""
    if name not in _DOOR:
        raise AttributeError(f"module 'nexusfs' has no attribute {name!r}")
    return getattr(import_module(_DOOR[name]), name)
