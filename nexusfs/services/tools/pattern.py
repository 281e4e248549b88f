"""Patterns that a model wrote, compiled by RE2: no pattern takes more than linear time."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from nexusfs.contracts.errors import InvalidError

MAX_PATTERN_CHARS = 1000
"""Nobody writes a longer one by hand."""
MAX_MEMORY_BYTES = 4 * 1024 * 1024
"""For one compiled pattern and its caches; RE2 refuses what does not fit."""
MAX_PROGRAM = 2000
"""Instructions; RE2's slow path visits each of them at every byte, 32 KiB in a second."""


def line_pattern(pattern: str) -> Any:
    r"""A compiled RE2 for bytes that matches within lines: never across \n, ^ and $ at its ends.

    Raises:
        InvalidError: EINVAL, with what RE2 says is wrong.
    """
    return _compile(f"(?m:{pattern})".encode("utf-8", "replace"), pattern)


def glob_pattern(pattern: str) -> Any:
    """A compiled RE2 that a path below the root of a search must match whole.

    `*`, `?` and `[ab]` match within a name, `**` any number of directories, `{a,b}` either.
    Without a slash it matches a name at any depth. InvalidError EINVAL for a broken one.
    """
    anywhere = "(?:.*/)?" if "/" not in pattern else ""
    relative = pattern.removeprefix("./").lstrip("/")
    expression = "".join(_Glob(relative).parts())
    return _compile(f"(?s:{anywhere}{expression})", pattern)


def _compile(expression: str | bytes, pattern: str) -> Any:
    import re2  # noqa: PLC0415  a C++ library, 10 ms, that only searches need

    if len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidError(
            f"the pattern is over {MAX_PATTERN_CHARS} characters: write a shorter one"
        )
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES
    options.log_errors = False
    options.never_nl = True
    try:
        compiled = re2.compile(expression, options)
    except re2.error as exc:
        said = exc.args[0].decode("utf-8", "replace") if isinstance(exc.args[0], bytes) else exc
        raise InvalidError(
            f"the pattern {pattern[:200]!r} is not RE2 ({said}): escape special characters with \\"
        ) from None
    if compiled.programsize > MAX_PROGRAM:
        raise InvalidError(f"the pattern {pattern[:200]!r} is too large: write fewer repetitions")
    return compiled


class _Glob:
    """Turns a glob into the pieces of a regular expression."""

    def __init__(self, glob: str) -> None:
        self._glob = glob
        self._at = 0
        self._braces = 0
        self._says: dict[str, Callable[[], str]] = {
            "*": self._star,
            "?": lambda: "[^/]",
            "[": self._set,
            "{": self._open,
            "}": self._close,
            ",": lambda: "|" if self._braces else ",",
            "\\": self._escaped,
        }

    def parts(self) -> Iterator[str]:
        """The pieces, in order."""
        while self._at < len(self._glob):
            char = self._glob[self._at]
            self._at += 1
            say = self._says.get(char)
            yield say() if say else re.escape(char)
        if self._braces:
            raise InvalidError(f"the pattern {self._glob[:200]!r} has a {{ without a }}")

    def _star(self) -> str:
        begin = self._at - 1
        while self._glob.startswith("*", self._at):
            self._at += 1
        alone = begin == 0 or self._glob[begin - 1] == "/"
        if self._at - begin < 2 or not alone:
            return "[^/]*"
        if self._glob.startswith("/", self._at):
            self._at += 1
            return "(?:.*/)?"
        return ".*"

    def _set(self) -> str:
        end = self._glob.find("]", self._at + 1)
        if end < 0:
            raise InvalidError(f"the pattern {self._glob[:200]!r} has a [ without a ]")
        inside = self._glob[self._at : end].replace("\\", "\\\\").replace("[", "\\[")
        self._at = end + 1
        return f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"

    def _open(self) -> str:
        self._braces += 1
        return "(?:"

    def _close(self) -> str:
        if not self._braces:
            return "\\}"
        self._braces -= 1
        return ")"

    def _escaped(self) -> str:
        char = self._glob[self._at : self._at + 1]
        self._at += 1
        return re.escape(char or "\\")
