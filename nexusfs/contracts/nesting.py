"""How deep values of JSON may be nested, whoever wrote them."""

from typing import Any

MAX_DEPTH = 64
"""Levels of nesting. No spec or tool needs ten; Python code that recurses over it stays safe."""


def is_too_deep(value: Any, levels: int = MAX_DEPTH) -> bool:
    """True when objects and lists are in each other more than `levels` deep; never recurses."""
    level = [value]
    for _ in range(levels + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return False
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return True
