"""call: one tool, by writing its file."""

import difflib
import errno
import json
import sys
from typing import Any

import click

from nexusfs.adapters.cli.options import complete_tools, examples, with_mount
from nexusfs.adapters.cli.spec import json_or_text
from nexusfs.adapters.client import ClientError, Mount


@click.command(
    epilog=examples(
        "nexusfs call",
        'nexusfs call read_file \'{"path":"/README"}\'',
        "nexusfs call grep pattern=TODO path=/src",
        "nexusfs call --json list_dir path=/",
    )
)
@click.option("--json", "whole", is_flag=True, help="Print the whole reply, not the output alone.")
@with_mount
@click.argument("tool", required=False, shell_complete=complete_tools)
@click.argument("words", nargs=-1, metavar="[JSON|-|KEY=VALUE...]")
def call(mount: Mount, tool: str | None, words: tuple[str, ...], whole: bool) -> int:
    """Run a tool and print its output; without TOOL, list the tools.

    The arguments are one JSON object, - for one on standard input, or KEY=VALUE words, which become
    what the tool's schema wants.

    Exit status: 0, or 1 when the tool failed.
    """
    if tool is None:
        for name in mount.names("dispatch"):
            click.echo(name)
        return 0
    try:
        reply = mount.request(f"dispatch/{tool}", _arguments(mount, tool, words))
    except ClientError as exc:
        if exc.errno == errno.ENOENT and not exc.reply:
            raise ClientError(errno.ENOENT, unknown(tool, mount.names("dispatch"))) from None
        return _failed(tool, exc, whole=whole)
    click.echo(reply if whole else output_of(reply), nl=False)
    return 0


def unknown(tool: str, known: list[str]) -> str:
    """The sentence about a tool that is not there, with the nearest that is."""
    near = difflib.get_close_matches(tool, known, n=1)
    return f"no tool {tool!r}: {f'did you mean {near[0]!r}?' if near else 'see nexusfs call'}"


def _arguments(mount: Mount, tool: str, words: tuple[str, ...]) -> bytes:
    if words == ("-",):
        return _ended(tool, sys.stdin.buffer.read())
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return _ended(tool, words[0].encode("utf-8", "surrogateescape"))
    schema = json.loads(mount.read(f"dispatch/{tool}")).get("inputSchema") or {} if words else {}
    return json.dumps(from_words(words, schema), ensure_ascii=False).encode("utf-8", "replace")


def _ended(tool: str, request: bytes) -> bytes:
    """The request, if it ends: the kernel would wait for the rest, and says all that is wrong else.

    Raises:
        ClientError: EINVAL.
    """
    text = request.decode("utf-8", "replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        if exc.pos >= len(text) or exc.msg.startswith("Unterminated"):
            raise ClientError(
                errno.EINVAL, f"{tool}: the arguments do not end: close every {{ with a }}"
            ) from None
    return request


def from_words(words: tuple[str, ...], schema: dict[str, Any]) -> dict[str, Any]:
    """The arguments that KEY=VALUE words mean: text where the schema wants text, otherwise JSON.

    Raises:
        click.UsageError: a word without an equals sign.
    """
    properties = schema.get("properties", {})
    arguments = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise click.UsageError(f"{word!r} is neither KEY=VALUE nor one JSON object")
        wants_text = "string" in _types(properties.get(key, {}))
        arguments[key] = value if wants_text else json_or_text(value)
    return arguments


def _types(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a property may have; `anyOf` is how optional ones are written."""
    named = schema.get("type", [])
    found = {named} if isinstance(named, str) else set(named)
    for choice in schema.get("anyOf", []):
        found |= _types(choice)
    return found


def output_of(reply: bytes) -> bytes:
    """The output inside a reply, ending in a newline unless it is empty."""
    output = json.loads(reply).get("output")
    if output is None:
        return b""
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    ended = text if text.endswith("\n") or not text else text + "\n"
    return ended.encode("utf-8", "replace")


def _failed(tool: str, failure: ClientError, *, whole: bool) -> int:
    """Shows a failed call: the reply when it was asked for, otherwise the error on one line."""
    error = error_of(failure.reply)
    if whole and error is not None:
        click.echo(failure.reply, nl=False)
    else:
        line = " ".join((error or str(failure)).split())
        click.echo(f"nexusfs: {tool}: {line}", err=True)
    return 1


def error_of(reply: bytes) -> str | None:
    """The error inside the reply of a failed call; None when it is no such reply."""
    try:
        parsed = json.loads(reply)
    except ValueError:
        return None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, str) else None
