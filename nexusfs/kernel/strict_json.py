r"""One JSON object, parsed strictly and piece by piece.

Control files take JSON from shells, programs and models, in pieces of any size. The standard
library's parser wants all of it at once, holds the interpreter for as long as it takes, and
accepts what no request may contain (duplicate keys, NaN, NUL, lone surrogates). `ObjectParser`
takes text as it comes, fails at the first character that cannot be right, does work linear in
the text, and stops at 64 levels and 100,000 values, so that neither parsing nor freeing what
was parsed can hold up the loop.

Pure: no I/O, never suspends. Source of the grammar: RFC 8259.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.nesting import MAX_DEPTH

MAX_DIGITS = 4300
"""Characters in one number. Source: Python's own limit, sys.int_info.default_max_str_digits."""
MAX_VALUES = 100_000
"""Keys and values in one request. Freeing two million of them at once holds the loop for 100 ms."""
SPACE = " \t\r\n"

_HEX = "[0-9a-fA-F]"
_HIGH = f"\\\\u[dD][89abAB]{_HEX}{{2}}"
_LOW = f"\\\\u[dD][c-fC-F]{_HEX}{{2}}"
_PLAIN = f"\\\\u(?!0000)(?:[0-9a-cA-CeEfF]{_HEX}|[dD][0-7]){_HEX}{{2}}"

_space = re.compile("[ \t\r\n]*+")
_string = re.compile(
    rf'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|{_PLAIN}|{_HIGH}{_LOW})*+'
)  # everything up to the closing quote, or up to what is wrong
_partial_escape = re.compile(
    rf"\\(?:u{_HEX}{{0,3}}|{_HIGH[2:]}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?)?"
)
_word = re.compile(r"[-+.0-9A-Za-z_]*+")
_number = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_partial_number = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:(?<=[0-9])[eE][-+]?[0-9]*)?)?")
_LITERALS = {"true": True, "false": False, "null": None}


class ObjectParser:
    """Parses one JSON object from pieces of text.

    Attributes:
        value: the object; filled in as text arrives, whole when `done`.
        started: its opening brace was seen.
        done: its closing brace was seen.
    """

    def __init__(self) -> None:
        """A parser that waits for an opening brace."""
        self.value: dict[str, Any] = {}
        self.started = False
        self.done = False
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._key = ""
        self._inside = False
        self._string_is_key = False
        self._chunks: list[str] = []
        self._tail = ""
        self._values = 0
        self._line = 1
        self._column = 1
        self._step: Callable[[str, int], int] = self._open

    def feed(self, text: str) -> str:
        """Takes the next piece of text; returns what follows the object's end, usually "".

        Raises:
            InvalidError: EINVAL, with line, column and what to write. The parser is then of no
                further use.
        """
        text, self._tail = self._tail + text, ""
        pos = 0
        while pos < len(text) and not self.done:
            if text[pos] in SPACE and not self._inside:
                found = _space.match(text, pos)
                pos = found.end() if found else pos
                if pos == len(text):
                    break
            pos = self._step(text, pos)
        self._advance(text, pos - len(self._tail))
        return text[pos:]

    def _advance(self, text: str, end: int) -> None:
        """Moves the place in the request past text[:end]."""
        breaks = text.count("\n", 0, end)
        if breaks:
            self._line += breaks
            self._column = end - text.rfind("\n", 0, end)
        else:
            self._column += end

    def _fault(self, text: str, pos: int, what: str) -> InvalidError:
        """An error that names the place of text[pos]."""
        self._advance(text, pos)
        return InvalidError(f"not valid JSON at line {self._line}, column {self._column}: {what}")

    def _wait(self, text: str, pos: int) -> int:
        """Keeps text[pos:], the beginning of a token, for the next piece."""
        self._tail = text[pos:]
        return len(text)

    # The steps: each reads one token at pos, which is not white space, and returns its end.

    def _open(self, text: str, pos: int) -> int:
        if text[pos] != "{":
            what = f"a request is one JSON object and starts with {{, not with {_shown(text, pos)}"
            raise self._fault(text, pos, what)
        self.started = True
        self._stack.append(self.value)
        self._step = self._first_key
        return pos + 1

    def _first_key(self, text: str, pos: int) -> int:
        return self._close(pos) if text[pos] == "}" else self._next_key(text, pos)

    def _next_key(self, text: str, pos: int) -> int:
        if text[pos] != '"':
            what = f'write a key in double quotes here, "key": value, not {_shown(text, pos)}'
            raise self._fault(text, pos, what)
        return self._begin_string(text, pos, is_key=True)

    def _colon(self, text: str, pos: int) -> int:
        if text[pos] != ":":
            what = f"a colon must follow the key {_short(self._key)}, not {_shown(text, pos)}"
            raise self._fault(text, pos, what)
        self._step = self._next_value
        return pos + 1

    def _first_value(self, text: str, pos: int) -> int:
        return self._close(pos) if text[pos] == "]" else self._next_value(text, pos)

    def _next_value(self, text: str, pos: int) -> int:
        first = text[pos]
        if first == '"':
            return self._begin_string(text, pos, is_key=False)
        if first in "{[":
            return self._push(text, pos)
        return self._scalar(text, pos)

    def _after_value(self, text: str, pos: int) -> int:
        in_object = isinstance(self._stack[-1], dict)
        if text[pos] == ",":
            self._step = self._next_key if in_object else self._next_value
            return pos + 1
        if text[pos] == ("}" if in_object else "]"):
            return self._close(pos)
        what = f"a comma or {'}' if in_object else ']'} must come here, not {_shown(text, pos)}"
        raise self._fault(text, pos, what)

    def _in_string(self, text: str, pos: int) -> int:
        found = _string.match(text, pos)
        end = found.end() if found else pos
        if end > pos:
            raw = text[pos:end]
            self._chunks.append(json.loads(f'"{raw}"') if "\\" in raw else raw)
        if end == len(text):
            return end
        if text[end] == '"':
            return self._end_string(text, end)
        if _partial_escape.fullmatch(text, end):
            return self._wait(text, end)
        raise self._fault(text, end, _string_fault(text, end))

    # What the steps do.

    def _begin_string(self, text: str, pos: int, *, is_key: bool) -> int:
        self._string_is_key = is_key
        self._step, self._inside = self._in_string, True
        return pos + 1

    def _end_string(self, text: str, end: int) -> int:
        value = self._chunks[0] if len(self._chunks) == 1 else "".join(self._chunks)
        self._chunks, self._inside = [], False
        if not self._string_is_key:
            self._put(text, end, value)
            return end + 1
        top = self._stack[-1]
        if value in top:
            what = f"the key {_short(value)} is there twice: write each key once"
            raise self._fault(text, end, what)
        self._count(text, end)
        self._key = value
        self._step = self._colon
        return end + 1

    def _scalar(self, text: str, pos: int) -> int:
        found = _word.match(text, pos)
        end = found.end() if found else pos
        word = text[pos:end]
        if len(word) > MAX_DIGITS:
            raise self._fault(text, pos, f"a number has at most {MAX_DIGITS} characters")
        if end == len(text) and _may_continue(word):
            return self._wait(text, pos)
        if word in _LITERALS:
            self._put(text, pos, _LITERALS[word])
        else:
            self._put(text, pos, self._read_number(text, pos, word))
        return end

    def _read_number(self, text: str, pos: int, word: str) -> int | float:
        found = _number.fullmatch(word)
        if found is None:
            raise self._fault(text, pos, _value_fault(text, pos, word))
        if found.lastindex is None:
            return int(word)
        number = float(word)
        if number in (float("inf"), float("-inf")):
            raise self._fault(text, pos, f"{_short(word)} is over the largest number, 1.7e308")
        return number

    def _push(self, text: str, pos: int) -> int:
        if len(self._stack) == MAX_DEPTH:
            what = f"nested deeper than {MAX_DEPTH} levels: write a flatter object"
            raise self._fault(text, pos, what)
        inner: dict[str, Any] | list[Any] = {} if text[pos] == "{" else []
        self._put(text, pos, inner)
        self._stack.append(inner)
        self._step = self._first_key if text[pos] == "{" else self._first_value
        return pos + 1

    def _put(self, text: str, pos: int, value: object) -> None:
        self._count(text, pos)
        top = self._stack[-1]
        if isinstance(top, dict):
            top[self._key] = value
        else:
            top.append(value)
        self._step = self._after_value

    def _count(self, text: str, pos: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            what = f"more than {MAX_VALUES} keys and values in one request: put them in a file"
            raise self._fault(text, pos, what)

    def _close(self, pos: int) -> int:
        self._stack.pop()
        self.done = not self._stack
        self._step = self._after_value
        return pos + 1


def _may_continue(word: str) -> bool:
    """True when more text could make `word` a number or a literal."""
    starts = any(literal.startswith(word) for literal in _LITERALS)
    return starts or _partial_number.fullmatch(word) is not None


def _short(text: str) -> str:
    """`text` quoted, cut to 40 characters."""
    return json.dumps(text if len(text) <= 40 else f"{text[:40]}…", ensure_ascii=False)


def _shown(text: str, pos: int) -> str:
    """The character at pos, or the word that starts there, as a message shows it."""
    found = _word.match(text, pos, pos + 41)
    word = found.group() if found else ""
    return _short(word or text[pos]) if text[pos].isprintable() else f"U+{ord(text[pos]):04X}"


def _value_fault(text: str, pos: int, word: str) -> str:
    """Says why what stands at pos is no value."""
    if word in ("NaN", "Infinity", "-Infinity"):
        return f"{word} is not JSON: write a number, or null"
    if word in ("True", "False", "None"):
        return f"write {'null' if word == 'None' else word.lower()}, not {word}"
    if word[:1].isalpha():
        return f'{_short(word)} is not a value: write text in double quotes, "{word[:40]}"'
    return f"a value must come here, not {_shown(text, pos)}"


def _string_fault(text: str, pos: int) -> str:
    """Says why what stands at pos may not be in a string."""
    if text[pos] != "\\":
        code = ord(text[pos])
        if code == 0:
            return "a NUL byte is not allowed"
        return (
            f"the control character U+{code:04X} inside a string must be written \\u{code:04x}"
            + (", or \\n" if code == 10 else ", or \\t" if code == 9 else "")
        )
    if text.startswith("\\u0000", pos):
        return "NUL (\\u0000) is not allowed in a string"
    if re.match(r"\\u[dD][89a-fA-F]", text[pos : pos + 6]):
        return f"{text[pos : pos + 6]} is half of a surrogate pair: write the character itself"
    return f"{_short(text[pos : pos + 2])[1:-1]} is not an escape: write \\\\ for a backslash"
