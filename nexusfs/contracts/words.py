"""What the writer most likely meant, for errors that teach."""

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


def path_from_the_root(path: str, mountpoints: Iterable[str]) -> str | None:
    """What to write for a path as the shell sees it; None when it is below no mount point."""
    for mountpoint in mountpoints:
        if path == mountpoint or path.startswith(f"{mountpoint}/"):
            return path[len(mountpoint) :] or "/"
    return None
