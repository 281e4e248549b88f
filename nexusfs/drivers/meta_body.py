"""The content of one file as a map of extents, in memory, a window of the file at a time.

Extents do not overlap, do not reach past the file's size, and do not cross the border of a
window, so a window can be loaded, searched and changed by itself: what a write costs does not
depend on the length of the file.

Inline bytes that touch are joined up to `JOINED_BYTES`, so that a log written 100 bytes at a
time makes one extent for each 64 KiB.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Protocol

from nexusfs.contracts.store import SIZE_MAX, BlobRef, Extent

WINDOW_BYTES = 4 << 20
"""Sequential writes of 128 KiB make 32 extents of a window, those of 4 KiB 64 joined ones."""
WINDOWS_MAX = 256
"""Windows of one file in memory while nothing of it has changed: 1 GiB of the file."""
JOINED_BYTES = 64 << 10
"""Largest inline extent in memory: joining copies it, which costs 5 microseconds at most."""

Load = Callable[[int, int], list[Extent]]
"""The stored extents that begin in [start, stop), by start."""


class Names(Protocol):
    """Who counts the names of blobs."""

    def name(self, blob: BlobRef) -> None:
        """One more extent names the blob."""
        ...

    def unname(self, blob: BlobRef) -> None:
        """One extent less."""
        ...


class Body:
    """The extents of one file.

    Attributes:
        changed: rows that differ from the stored ones, by start; None for one to delete.
        pinned: something here is not stored yet, so that no window may be dropped.
    """

    __slots__ = ("_last_stored", "_load", "_names", "_stored_stop", "_windows", "changed", "pinned")

    def __init__(
        self, names: Names, load: Load | None, last_stored: Callable[[], int] | None = None
    ) -> None:
        """`load` reads stored extents, `last_stored` tells where the last of them begins.

        None for a file that has none.
        """
        self._names = names
        self._load = load
        self._last_stored = last_stored
        self._stored_stop = -1
        self._windows: dict[int, list[Extent]] = {}
        self.changed: dict[int, Extent | None] = {}
        self.pinned = False

    def select(self, start: int, stop: int) -> list[Extent]:
        """The extents that overlap [start, stop), whole, by start. Loads what is missing."""
        first, last = start // WINDOW_BYTES, (stop - 1) // WINDOW_BYTES
        if first == last:
            if len(self._windows) >= WINDOWS_MAX:
                self._drop_stored()
            window = self._window(first)
            if len(window) == 1:
                return window[:] if window[0].start < stop and start < window[0].stop else []
            return window[slice(*_span(window, start, stop))]
        self.load(start, stop)
        found = []
        for index in self._between(first, last):
            window = self._windows[index]
            found += window[slice(*_span(window, start, stop))]
        return found

    def load(self, start: int, stop: int) -> None:
        """Reads the stored extents of every window that [start, stop) touches."""
        if len(self._windows) >= WINDOWS_MAX:
            self._drop_stored()
        stop = min(stop, self.stored_stop)
        if self._load is None or stop <= start:
            return
        first, last = start // WINDOW_BYTES, (stop - 1) // WINDOW_BYTES
        if first == last:
            self._window(first)
            return
        missing: dict[int, list[Extent]] = {}
        for extent in self._load(first * WINDOW_BYTES, min((last + 1) * WINDOW_BYTES, SIZE_MAX)):
            index = extent.start // WINDOW_BYTES
            if index not in self._windows:
                missing.setdefault(index, []).append(extent)
        self._windows |= missing

    @property
    def stored_stop(self) -> int:
        """No extent that only the tables have reaches beyond this."""
        if self._stored_stop < 0:
            last = self._last_stored() if self._last_stored else -WINDOW_BYTES
            self._stored_stop = (last // WINDOW_BYTES + 1) * WINDOW_BYTES
        return self._stored_stop

    def last_start(self) -> int:
        """No extent begins after this."""
        loaded = max((w[-1].start for w in self._windows.values() if w), default=0)
        return max(loaded, self.stored_stop - 1)

    def put(self, extent: Extent) -> int:
        """Puts an extent, of any length, over what is there; returns the bytes it adds.

        What [start, stop) touches must be loaded.
        """
        added = 0
        for part in _within_windows(extent):
            window = self._window(part.start // WINDOW_BYTES)
            added += self._replace(window, part)
        return added

    def carve(self, start: int, stop: int) -> int:
        """Takes [start, stop) out; returns the bytes that went. It must be loaded."""
        removed = 0
        if stop >= SIZE_MAX:
            self._stored_stop = min(self.stored_stop, start)
        for index in self._between(start // WINDOW_BYTES, (stop - 1) // WINDOW_BYTES):
            removed += self._carve(self._windows[index], start, stop)
        return removed

    def weight(self) -> int:
        """Inline bytes in memory."""
        return sum(len(e.data) for window in self._windows.values() for e in window if e.data)

    def unname_all(self) -> None:
        """Lets go of every blob, before the file is forgotten. Everything must be loaded."""
        for window in self._windows.values():
            for extent in window:
                if extent.blob is not None:
                    self._names.unname(extent.blob)

    def swap(self, run: list[Extent], blob: BlobRef) -> bool:
        """Makes a run of inline extents that touch one extent of a blob with their bytes.

        False, and nothing is changed, when one of them is not there any more.
        """
        window = self._window(run[0].start // WINDOW_BYTES)
        at = bisect_left(window, run[0].start, key=_start)
        found = window[at : at + len(run)]
        if len(found) < len(run) or any(a is not b for a, b in zip(found, run, strict=True)):
            return False
        start = run[0].start
        for extent in run[1:]:
            self._note(extent.start, None)
        window[at : at + len(run)] = [Extent(start, run[-1].stop - start, None, blob)]
        self._names.name(blob)
        self._note(start, window[at])
        return True

    # One window

    def _replace(self, window: list[Extent], new: Extent) -> int:
        if not window or window[-1].stop <= new.start:
            self._append(window, new)  # Most writes.
            return new.length
        if new.data is not None and self._overwrite(window, new):
            return 0
        removed = self._carve(window, new.start, new.stop)
        at = bisect_left(window, new.start, key=_start)
        window.insert(at, new)
        self._named(new)
        if new.data is not None:
            self._join(window, at)
        return new.length - removed

    def _append(self, window: list[Extent], new: Extent) -> None:
        last = window[-1] if window else None
        if last is not None and last.stop == new.start and _fit(last, new):
            window[-1] = _joined(last, new)
            self._note(last.start, window[-1])
            return
        window.append(new)
        self._named(new)

    def _overwrite(self, window: list[Extent], new: Extent) -> bool:
        """Puts `new` into the one inline extent that covers it; False when there is none."""
        at = bisect_right(window, new.start, key=_start) - 1
        old = window[at] if at >= 0 else None
        if old is None or old.data is None or old.stop < new.stop:
            return False
        assert new.data is not None
        skip = new.start - old.start
        data = b"".join((old.data[:skip], new.data, old.data[skip + new.length :]))
        window[at] = Extent(old.start, old.length, data)
        self._note(old.start, window[at])
        return True

    def _join(self, window: list[Extent], at: int) -> None:
        """Joins the inline extent at `at` with those it touches, the left one first."""
        for left in (at - 1, at):
            if left < 0 or left + 1 >= len(window):
                continue
            one, two = window[left], window[left + 1]
            if one.stop != two.start or not _fit(one, two):
                continue
            window[left : left + 2] = [_joined(one, two)]
            self._note(two.start, None)
            self._note(one.start, window[left])
            if left < at:
                self._join(window, left)
                return

    def _carve(self, window: list[Extent], start: int, stop: int) -> int:
        first, last = _span(window, start, stop)
        removed = 0
        left: list[Extent] = []
        for extent in window[first:last]:
            removed += min(extent.stop, stop) - max(extent.start, start)
            parts = []
            if extent.start < start:
                parts.append(_part(extent, extent.start, start))
            else:
                self._note(extent.start, None)
            if extent.stop > stop:
                parts.append(_part(extent, stop, extent.stop))
            for part in parts:
                self._named(part)
            if extent.blob is not None:
                self._names.unname(extent.blob)
            left += parts
        window[first:last] = left
        return removed

    def _named(self, extent: Extent) -> None:
        if extent.blob is not None:
            self._names.name(extent.blob)
        self._note(extent.start, extent)

    def _note(self, start: int, extent: Extent | None) -> None:
        self.changed[start] = extent

    # Windows

    def _window(self, index: int) -> list[Extent]:
        window = self._windows.get(index)
        if window is None:
            start = index * WINDOW_BYTES
            stop = min(start + WINDOW_BYTES, SIZE_MAX)
            stored = self._load(start, stop) if self._load else []
            window = self._windows[index] = stored
        return window

    def _drop_stored(self) -> None:
        if not self.pinned and self._load:
            self._windows.clear()
            self._stored_stop = -1

    def _between(self, first: int, last: int) -> Iterable[int]:
        """The loaded windows from `first` to `last`, ascending."""
        if first == last:
            return (first,) if first in self._windows else ()
        return sorted(index for index in self._windows if first <= index <= last)

    def inline_runs(self, least_bytes: int, most_bytes: int) -> Iterator[list[Extent]]:
        """Changed inline extents that touch, in runs of `least_bytes` to `most_bytes`."""
        run: list[Extent] = []
        size = 0
        for start in sorted(self.changed):
            extent = self.changed[start]
            inline = extent is not None and extent.data is not None
            touches = inline and run and extent is not None and run[-1].stop == extent.start
            fits = touches and size + extent.length <= most_bytes if extent else False
            if run and (not fits or start % WINDOW_BYTES == 0):
                if size >= least_bytes:
                    yield run
                run, size = [], 0
            if extent is not None and inline:
                run.append(extent)
                size += extent.length
        if size >= least_bytes:
            yield run


def _start(extent: Extent) -> int:
    return extent.start


def _fit(one: Extent, two: Extent) -> bool:
    """True when both are inline and not too long together."""
    return one.data is not None and two.data is not None and (
        one.length + two.length <= JOINED_BYTES
    )  # fmt: skip


def _joined(one: Extent, two: Extent) -> Extent:
    assert one.data is not None and two.data is not None
    return Extent(one.start, one.length + two.length, one.data + two.data)


def _span(window: list[Extent], start: int, stop: int) -> tuple[int, int]:
    """The positions [first, last) of the extents that overlap [start, stop)."""
    first = bisect_right(window, start, key=_start)
    if first and window[first - 1].stop > start:
        first -= 1
    return first, bisect_left(window, stop, lo=first, key=_start)


def _within_windows(extent: Extent) -> Iterable[Extent]:
    """The extent cut at the borders of windows."""
    first, last = extent.start // WINDOW_BYTES, (extent.stop - 1) // WINDOW_BYTES
    if first == last:
        return (extent,)
    borders = [index * WINDOW_BYTES for index in range(first + 1, last + 1)]
    cuts = [extent.start, *borders, extent.stop]
    return [_part(extent, a, b) for a, b in pairwise(cuts)]


def _part(extent: Extent, start: int, stop: int) -> Extent:
    """The bytes [start, stop) of an extent."""
    skip = start - extent.start
    if extent.data is not None:
        return Extent(start, stop - start, extent.data[skip : skip + stop - start])
    return Extent(start, stop - start, None, extent.blob, extent.offset + skip)
