"""Agent files: Markdown whose front matter is the spec and whose body is the instructions.

The format that Claude Code agents use, so an existing collection works by `cp`. Of YAML it
takes what JSON can say: mappings with text keys, lists, text, numbers, true, false, null. No
anchors, aliases, tags or merges, which specs do not need and with which small files become
huge ones; `yes`, `on`, 1:30 and dates stay text. Values are built from YAML's events, without
recursion. No I/O.

Source of the format: https://docs.claude.com/en/docs/claude-code/sub-agents
"""

import contextlib
import json
import math
import re
import sys
from typing import Any

import trio

from nexusfs.contracts.errors import InvalidError, NotSpecError, TooBigError

FRONT_MATTER_LIMIT_BYTES = 64 * 1024
"""The worst found takes 50 ms to read, in a thread; agents have a few KiB at most."""
MAX_DEPTH = 64
"""As for JSON requests."""
OFF_LOOP_BYTES = 4 * 1024
"""Front matter from this size on is parsed in a thread."""

_FIRST_LINE = 2
"""Of the file: the line after the opening fence."""
_open_fence = re.compile(r"\ufeff?---[ \t]*\r?\n")
_close_fence = re.compile(r"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)
_plain_line = re.compile(r"^([A-Za-z_][\w-]*):[ \t]+([^\s\"'\[{|>&*!%@`#].*)$", re.MULTILINE)
_description = re.compile(r"^description:[ \t]+(?=[^\s\"'\[{|>&*!%@`#])", re.MULTILINE)
_next_field = re.compile(
    r"^(?:name|tools|disallowedTools|model|color|permissionMode|maxTurns|skills|hooks):",
    re.MULTILINE,
)
_integer = re.compile(r"[-+]?[0-9]{1,4300}")
_float = re.compile(r"[-+]?(?:[0-9]{1,400}\.[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][-+]?[0-9]{1,3})?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def parse_agent(data: bytes) -> tuple[dict[str, Any], str]:
    """(the raw fields of the front matter, the body without the space around it) of an agent file.

    Nothing is renamed or checked: that is the spec model's.

    Raises:
        NotSpecError: ENOEXEC, not text, or no front matter: this is not an agent.
        InvalidError: EINVAL, an agent with a mistake in it; the message has the line.
        TooBigError: EFBIG, more than 64 KiB of front matter.

    Takes up to 50 ms for 64 KiB of front matter, and 40 ms to import PyYAML at the first call.
    """
    front, body = split_agent(data)
    return parse_front_matter(front), body


async def parse_agent_async(data: bytes) -> tuple[dict[str, Any], str]:
    """`parse_agent`, in a thread when the front matter is long and at the first call of all."""
    front, body = split_agent(data)
    if len(front) < OFF_LOOP_BYTES and "yaml" in sys.modules:
        return parse_front_matter(front), body
    return await trio.to_thread.run_sync(parse_front_matter, front), body


def split_agent(data: bytes) -> tuple[str, str]:
    """(YAML text between the fences, body) of an agent file; errors as in `parse_agent`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise NotSpecError(f"not an agent: line {line} is not UTF-8 text") from None
    begin = _open_fence.match(text)
    if begin is None:
        raise NotSpecError(
            "not an agent: the first line must be ---, then fields like `name: x`, then --- again"
        )
    end = _close_fence.search(text, begin.end())
    if end is None:
        raise InvalidError("the front matter is not closed: write --- on a line of its own")
    if end.start() - begin.end() > FRONT_MATTER_LIMIT_BYTES:
        limit = FRONT_MATTER_LIMIT_BYTES
        raise TooBigError(
            f"front matter has at most {limit} bytes: put the text below the --- line"
        )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InvalidError(f"line {line} has a NUL byte: remove it")
    return text[begin.end() : end.start()], text[end.end() :].strip()


def parse_front_matter(front: str) -> dict[str, Any]:
    """The mapping in the YAML text `front`; InvalidError EINVAL with a line of the file.

    Where it is not YAML, text with a colon, as in `description: Use when: …`, is taken as it
    stands, and a description goes on to the next field: YAML wants quotes and indentation
    there, yet Claude Code does not, and public collections have such agents.
    """
    try:
        return _build(front)
    except InvalidError as exc:
        first = exc
    quoted = _plain_line.sub(_quote, _quote_description(front))
    if quoted != front:
        with contextlib.suppress(InvalidError):
            return _build(quoted)
    raise first


def _quote_description(front: str) -> str:
    """`front` with its unquoted description, up to the next field of an agent, in quotes."""
    begin = _description.search(front)
    if begin is None:
        return front
    after = _next_field.search(front, begin.end())
    end = after.start() if after else len(front)
    text = json.dumps(front[begin.end() : end].rstrip(), ensure_ascii=False)
    return f"{front[: begin.end()]}{text}\n{front[end:]}"


def _quote(found: re.Match[str]) -> str:
    """`key: text: more` with its text in quotes; what YAML takes as it is stays."""
    key, value = found[1], found[2].rstrip()
    if ":" not in value:
        return found.group()
    return f"{key}: {json.dumps(value, ensure_ascii=False)}"


def _build(front: str) -> dict[str, Any]:
    import yaml  # noqa: PLC0415  heavy, 40 ms: the mount is ready before

    builder = _Builder()
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(front, Loader=loader):
            builder.take(event)
    except yaml.YAMLError as exc:
        raise _yaml_fault(exc) from None
    if builder.root is None:
        return {}
    if not isinstance(builder.root, dict):
        raise InvalidError(f"line {_FIRST_LINE}: front matter is `key: value` lines, one per field")
    return builder.root


class _Builder:
    """Builds plain values from YAML events."""

    def __init__(self) -> None:
        self.root: object = None
        self._stack: list[tuple[dict[str, Any] | list[Any], list[str]]] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """Takes the next event; InvalidError for what JSON cannot say."""
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise _fault(event, "a second document begins: keep one")
        elif kind == "AliasEvent":
            raise _fault(event, f'aliases are not taken: write "*{event.anchor}" in quotes')
        elif kind in ("ScalarEvent", "SequenceStartEvent", "MappingStartEvent"):
            self._value(event, kind)
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            self._stack.pop()

    def _value(self, event: Any, kind: str) -> None:
        if event.anchor is not None:
            raise _fault(event, f'anchors are not taken: write "&{event.anchor}" in quotes')
        if event.tag is not None:
            raise _fault(event, f'tags are not taken: write "{event.tag}" in quotes')
        if self._wants_key():
            self._key(event, kind)
            return
        value = _scalar(event) if kind == "ScalarEvent" else {} if kind[0] == "M" else []
        self._put(value)
        if isinstance(value, dict | list):
            if len(self._stack) == MAX_DEPTH:
                raise _fault(event, f"nested deeper than {MAX_DEPTH} levels")
            self._stack.append((value, []))

    def _wants_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1][0], dict) and not self._stack[-1][1]

    def _key(self, event: Any, kind: str) -> None:
        if kind != "ScalarEvent":
            raise _fault(event, "a key must be text")
        top, waiting = self._stack[-1]
        if event.value in top:
            raise _fault(event, f"the key {event.value[:100]!r} is there twice: write it once")
        waiting.append(event.value)

    def _put(self, value: object) -> None:
        if not self._stack:
            self.root = value
            return
        top, waiting = self._stack[-1]
        if isinstance(top, dict):
            top[waiting.pop()] = value
        else:
            top.append(value)


def _scalar(event: Any) -> object:
    """The value of a scalar: quoted ones are text, plain ones may be numbers or words."""
    text: str = event.value
    if "\0" in text:
        raise _fault(event, "text may not contain NUL")
    if not event.implicit[0]:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _integer.fullmatch(text):
        return int(text)
    if not _float.fullmatch(text):
        return text
    number = float(text)
    if not math.isfinite(number):
        raise _fault(event, f"{text} is too large a number")
    return number


def _fault(event: Any, what: str) -> InvalidError:
    return InvalidError(f"line {event.start_mark.line + _FIRST_LINE}: {what}")


def _yaml_fault(exc: Any) -> InvalidError:
    """An error of the YAML parser, with the line of the file and a hint for the usual cause."""
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or getattr(exc, "reason", None) or "not YAML"
    line = f"line {mark.line + _FIRST_LINE}: " if mark is not None else ""
    return InvalidError(f"{line}the front matter is not YAML ({problem}): quote text with : # or *")
