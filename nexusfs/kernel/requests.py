"""What people and models write to control files: framing, strict parsing, and errors that teach.

A control file receives bytes in whatever pieces the writer chose: bash writes a line at a
time, cat 128 KiB, Python up to 1 MiB. `JsonFramer` says when a request is complete, so that it
can act inside that very write; it parses as it goes, so a malformed request fails at the piece
that breaks it. No I/O.

Concurrency: a framer belongs to one open file. `feed` suspends between slices; the
caller keeps two writes of one handle from entering it together (Linux does, at the mount).
Cancelled, it forgets the unfinished request.
"""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

import trio

from nexusfs.contracts.errors import InvalidError, TooBigError
from nexusfs.contracts.words import nearest
from nexusfs.kernel.strict_json import SPACE, ObjectParser

REQUEST_LIMIT_BYTES = 4 * 1024 * 1024
"""The largest spec, tool call or message. Source: docs/tree.md, rules."""
SLICE_BYTES = 4 * 1024
"""Parsed between two suspensions: 4 ms at one token per byte, the worst there is."""

_SPACE_BYTES = SPACE.encode()
_decoder = codecs.getincrementaldecoder("utf-8")


class JsonFramer:
    """Finds the end of one JSON object in a stream of pieces, and parses it.

    After a complete object, and after an error, the next piece begins a new request.

    Attributes:
        value: the last complete object, parsed.
    """

    def __init__(self, limit_bytes: int = REQUEST_LIMIT_BYTES) -> None:
        """A framer that refuses requests over `limit_bytes`."""
        self._limit_bytes = limit_bytes
        self.value: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets an unfinished request."""
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._parser = ObjectParser()
        self._decoder = _decoder()

    @property
    def pending(self) -> bool:
        """True when a request has begun and is not complete."""
        return bool(self._pieces)

    async def feed(self, piece: bytes) -> bytes | None:
        """The object that `piece` completes, or None when more must come.

        The object is its own bytes, without the white space around it, which is nothing.
        Suspends after each 4 KiB, so a short piece never does. Cancelled, it forgets the
        unfinished request.

        Raises:
            InvalidError: EINVAL, malformed, or followed by other bytes in the same piece.
            TooBigError: EFBIG, over the limit; nothing more is kept.
        """
        try:
            for found in self._slices(piece):
                if found is not None:
                    return found
                await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self.reset()
            raise
        return None

    def feed_now(self, piece: bytes) -> bytes | None:
        """`feed` that never suspends: up to 1 ms per KiB of hostile text, 0.25 s in all."""
        return next((found for found in self._slices(piece) if found is not None), None)

    def end(self) -> None:
        """Says that nothing more will come; InvalidError EINVAL when a request is unfinished."""
        if self.pending:
            self.reset()
            raise InvalidError("the JSON object is not closed: end the request with }")

    def _slices(self, piece: bytes) -> Iterator[bytes | None]:
        """Parses slice by slice; yields None between two, and the object at its end."""
        try:
            self._keep(piece)
            for start in range(0, len(piece), SLICE_BYTES):
                if start:
                    yield None
                rest = self._parser.feed(self._decode(piece[start : start + SLICE_BYTES]))
                if self._parser.done:
                    self._refuse_more(rest, piece[start + SLICE_BYTES :])
                    yield self._complete()
                    return
        except (InvalidError, TooBigError):
            self.reset()
            raise
        if not self._parser.started and not self._decoder.getstate()[0]:
            self.reset()

    def _keep(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self._size_bytes > self._limit_bytes:
            raise TooBigError(
                f"a request has at most {self._limit_bytes} bytes: put the rest in a file"
            )
        self._pieces.append(piece)

    def _decode(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data)
        except UnicodeDecodeError as exc:
            bad = exc.object[exc.start]
            raise InvalidError(
                f"not valid JSON: the byte 0x{bad:02x} is not UTF-8, in which requests are written"
            ) from None

    def _refuse_more(self, rest: str, unread: bytes) -> None:
        if rest.strip(SPACE) or self._decoder.getstate()[0] or unread.strip(_SPACE_BYTES):
            what = "other bytes follow the JSON object: write one object, and nothing after it"
            raise InvalidError(what)

    def _complete(self) -> bytes:
        data = b"".join(self._pieces).strip(_SPACE_BYTES)
        self.value = self._parser.value
        self.reset()
        return data


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, strictly: no duplicate keys, NaN, NUL, lone surrogates.

    Raises:
        InvalidError: EINVAL; the message has the place and what to write instead.
        TooBigError: EFBIG, over 4 MiB.
    """
    framer = JsonFramer()
    return _whole(framer, framer.feed_now(data))


async def parse_object_async(data: bytes) -> dict[str, Any]:
    """`parse_object` that suspends after each 4 KiB, so that no text stalls other requests."""
    framer = JsonFramer()
    return _whole(framer, await framer.feed(data))


def _whole(framer: JsonFramer, found: bytes | None) -> dict[str, Any]:
    framer.end()
    if found is None:
        raise InvalidError("the request is empty: write one JSON object, {…}")
    return framer.value


def unknown_key_message(key: str, known: Iterable[str], where: str = "$") -> str:
    """One sentence: the unknown key, the JSON path of its object, and the nearest known one."""
    names = sorted(known)
    near = nearest(key[:100], names)  # difflib takes 0.2 s for a key of 1 MiB
    place = "" if where == "$" else f" at {where}"
    if near is not None:
        return f"unknown key {key[:100]!r}{place}: did you mean {near!r}?"
    if not names:
        return f"unknown key {key[:100]!r}{place}: no keys are known here"
    return f"unknown key {key[:100]!r}{place}: known keys are {', '.join(names)}"
