"""What an agent may use: a chain of caveats that must all hold, appended at spawn."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class ToolCaveat:
    """One link of the chain: globs that are allowed (None: all), and globs that are not."""

    allowed: tuple[str, ...] | None = None
    denied: tuple[str, ...] = ()

    def holds(self, tool: str) -> bool:
        """True when this caveat lets `tool` through."""
        if any(fnmatchcase(tool, glob) for glob in self.denied):
            return False
        return self.allowed is None or any(fnmatchcase(tool, glob) for glob in self.allowed)


Rights = tuple[ToolCaveat, ...]
"""From the oldest ancestor's caveat to the process's own."""


@lru_cache(10_000)
def may_use(rights: Rights, tool: str) -> bool:
    """True when every caveat of the chain holds."""
    return all(caveat.holds(tool) for caveat in rights)


def excess(rights: Rights, wanted: ToolCaveat) -> list[str]:
    """The tools that `wanted` names and `rights` do not grant; a glob asks for what there is."""
    named = [name for name in wanted.allowed or () if not is_glob(name) and wanted.holds(name)]
    return [name for name in named if not may_use(rights, name)]


def is_glob(name: str) -> bool:
    """True for a pattern, False for a plain name."""
    return any(char in name for char in "*?[")
