"""The nearest known word, for errors that teach."""

import difflib
from collections.abc import Iterable

COMPARED_CHARS = 100
"""More of a hostile word is not looked at: difflib is quadratic."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most likely meant, or None; swapped letters win."""
    word = word[:COMPARED_CHARS]
    candidates = list(known)
    for candidate in candidates:
        if sorted(candidate) == sorted(word):
            return candidate
    found = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return found[0] if found else None
