"""What `run` shows of an agent's events: its tool calls, one dim line each, on stderr."""

import json
import shutil
import sys
from typing import Any

import click


class LineSplitter:
    """Cuts a stream of pieces into whole lines."""

    def __init__(self) -> None:
        """Starts with no half line."""
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that `piece` completes, without their newlines."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return lines


class Display:
    """The terminal while an agent runs: what it says on stdout, what it does on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        """A quiet display leaves out the tool calls."""
        self._quiet = quiet
        self._lines = LineSplitter()
        self._out = sys.stdout.buffer
        self._out_is_terminal = self._out.isatty()
        self._mid_line = False

    def said(self, piece: bytes) -> None:
        """Shows a piece of the agent's stdout at once."""
        self._out.write(piece)
        self._out.flush()
        self._mid_line = not piece.endswith(b"\n")

    def did(self, piece: bytes) -> None:
        """Shows what a piece of the agent's events tells of tool calls."""
        for line in self._lines.feed(piece):
            shown = None if self._quiet else describe(line)
            if shown:
                self.end_line()
                width = shutil.get_terminal_size().columns
                click.secho(shorten(shown, width), err=True, dim=True)

    def end_line(self) -> None:
        """On a terminal, begins a new line unless the cursor is at the start of one."""
        if self._mid_line and self._out_is_terminal:
            self._out.write(b"\n")
            self._out.flush()
        self._mid_line = False


def describe(line: bytes) -> str | None:
    """One line for a person about an event that is worth one; None for all others."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    kind, name = event.get("type"), event.get("name", "?")
    if kind == "tool_call":
        return f"> {name} {_arguments(event.get('arguments'))}".rstrip()
    if kind == "tool_result" and event.get("error"):
        return f"! {name}: {event['error']}"
    if kind == "model_retry":
        return f"! {event.get('model', 'model')}: {event.get('error', '')}; trying again"
    return None


def _arguments(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shorten(text: str, width: int) -> str:
    """The text on one line of at most `width` columns."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."
