"""From the words and options of spawn and run to the bytes that proc/spawn takes."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from nexusfs.adapters.client import Mount

Command = TypeVar("Command", bound=Callable[..., Any])

ALIASES = {
    "task": ("input",),
    "instructions": ("system_prompt", "prompt"),
    "tools": ("allowed_tools", "allowedTools"),
    "max_turns": ("maxTurns",),
}
"""Other names of fields that options set; an option replaces those too. Source: docs/tree.md."""

_AGENT_NAME = re.compile(r"[a-z0-9-]{1,64}")
_FRONT_MATTER = re.compile(
    rb"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)

_OPTIONS = [
    click.option("--model", metavar="MODEL", help="provider/model, such as offline/demo."),
    click.option("--tools", metavar="NAMES", help="Comma-separated names or globs; '' for none."),
    click.option("--instructions", metavar="TEXT", help="The system prompt."),
    click.option("--max-turns", type=click.IntRange(1), metavar="N", help="Stop after N turns."),
    click.option("--name", metavar="NAME", help="Shown in ps."),
    click.option("--cwd", metavar="DIR", help="Working directory, rooted at the mount."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any other field of a spec; VALUE is JSON, or else text.",
    ),
]


def spec_options(function: Command) -> Command:
    """Adds the options that become fields of a spec; fields_of() reads them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a spec that the options of spec_options set.

    Raises:
        click.UsageError: --set without an equals sign.
    """
    settings = options.pop("settings", ())
    fields = {key: value for key, value in options.items() if value is not None}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--set wants KEY=VALUE, not {setting!r}")
        fields[key] = json_or_text(value)
    return fields


def json_or_text(value: str) -> Any:
    """The value that a word means: JSON when it is some, the text itself otherwise."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def make_spec(mount: Mount, words: tuple[str, ...], fields: dict[str, Any]) -> bytes:
    """The spec that `words` name: a file, standard input, an installed agent, or a task alone.

    The words after the first are the task. A first word that has blanks belongs to the task too,
    and so does one that names neither a file nor an installed agent when `fields` say which model.

    Raises:
        click.UsageError: nothing says which agent to start.
    """
    if not words:
        if not fields:
            raise click.UsageError("name an agent or a FILE, or say a task in quotes")
        return _as_json(fields)
    first, *rest = words
    named = {**fields, **({"task": " ".join(rest)} if rest else {})}
    if first == "-":
        return with_fields(sys.stdin.buffer.read(), named)
    if is_file_name(first):
        return with_fields(_read_file(first), named)
    is_name = bool(_AGENT_NAME.fullmatch(first))
    if is_name and (mount.root / "bin" / f"{first}.md").exists():
        return _as_json({"agent": first, **named})
    if "model" in fields or " " in first:
        return _as_json({**fields, "task": " ".join(words)})
    if is_name:
        return _as_json({"agent": first, **named})  # the kernel says what is installed instead
    raise click.UsageError(f"{first!r} names no agent or FILE; quote a task, or say --model")


def is_file_name(word: str) -> bool:
    """True for a word with a slash or a suffix of a spec, which no agent's name has."""
    return " " not in word and ("/" in word or word.endswith((".md", ".json")))


def with_fields(spec: bytes, fields: dict[str, Any]) -> bytes:
    """The spec with some fields replaced; unchanged when it is malformed: the kernel says how."""
    if not fields:
        return spec
    try:
        return _with_fields(spec, fields)
    except (ValueError, yaml.YAMLError):
        return spec


def _with_fields(spec: bytes, fields: dict[str, Any]) -> bytes:
    if spec.lstrip().startswith(b"{"):
        return _as_json(_replaced(json.loads(spec), fields))
    found = _FRONT_MATTER.match(spec)
    head = yaml.safe_load(found[1]) if found else None
    body = spec[found.end() :] if found else spec
    # JSON is YAML, so the new front matter needs no style of its own.
    return b"---\n" + _as_json(_replaced(head or {}, fields)) + b"---\n" + body


def _replaced(spec: Any, fields: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(spec, dict):
        raise ValueError("not an object")
    dropped = {alias for key in fields for alias in ALIASES.get(key, ())}
    return {**{k: v for k, v in spec.items() if k not in dropped}, **fields}


def _as_json(spec: dict[str, Any]) -> bytes:
    return json.dumps(spec, ensure_ascii=False, default=str).encode() + b"\n"


def _read_file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        raise click.UsageError(f"{name}: {exc.strerror}") from None
