"""How often each blob is named, and what becomes of those that nothing names.

The life of a blob: it is put, an extent names it, extents stop naming it: dead. The next flush
stores that it is dead, then frees its space (from its beginning on it is doomed: nobody may name
it again), and the flush after that deletes its row. Losing all of this in a crash is harmless:
rows of dead blobs are found at open. Whether their space was freed nobody knows then, so they are
doomed at once.

A blob whose bytes could not be read is distrusted: nothing new names it, so the same bytes are put
once more, and then all extents that name it have these.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nexusfs.contracts.store import BlobRef

BlobKey = tuple[bytes, str]
"""(digest, algorithm)."""


@dataclass(slots=True)
class _Named:
    """A blob and how many extents name it."""

    ref: BlobRef
    count: int


class BlobNames:
    """Counts of names, in front of the stored ones.

    Attributes:
        dead_bytes: space of the blobs that have died since the last flush began.
        distrusted: blobs that could not be read.
    """

    def __init__(
        self,
        load: Callable[[bytes, str], tuple[BlobRef, int] | None],
        dead: Iterable[BlobRef],
    ) -> None:
        """`load` reads a stored count; `dead` are the blobs that a former process left dead."""
        self._load = load
        self._known: dict[BlobKey, _Named] = {}
        self._changed: set[BlobKey] = set()
        self._dead: dict[BlobKey, BlobRef] = {}
        self._doomed: dict[BlobKey, BlobRef] = {}
        self._forgotten: set[BlobKey] = set()
        self._forgetting: set[BlobKey] = set()
        self._storing: set[BlobKey] = set()
        self._replaced: list[BlobRef] = []
        self._freeing = 0
        self.distrusted: set[BlobKey] = set()
        self._left = {_key(ref): ref for ref in dead}
        self.dead_bytes = 0

    def find(self, digest: bytes, algorithm: str) -> BlobRef | None:
        """A blob of these bytes that may be named."""
        key = (digest, algorithm)
        named = self._find(key)
        return named.ref if named and key not in self.distrusted else None

    def distrust(self, blob: BlobRef) -> None:
        """The blob could not be read."""
        named = self._find(_key(blob))
        if named is not None and named.ref.place == blob.place:
            self.distrusted.add(_key(blob))

    def renew(self, blob: BlobRef) -> None:
        """The bytes were put once more, at another place than the one that is known, if any is."""
        key = _key(blob)
        named = self._find(key)
        if named is not None and named.ref.place != blob.place:
            self._replaced.append(named.ref)
            named.ref = blob
            if key in self._dead:
                self._dead[key] = blob
            self._changed.add(key)
            self.distrusted.discard(key)

    def name(self, blob: BlobRef) -> None:
        """One more extent names the blob."""
        key = _key(blob)
        named = self._find(key)
        if named is None:
            named = self._known[key] = _Named(blob, 0)
        named.count += 1
        self._changed.add(key)
        if key in self._dead:
            del self._dead[key]
            self.dead_bytes -= blob.size

    def unname(self, blob: BlobRef) -> None:
        """One extent less names the blob."""
        key = _key(blob)
        named = self._find(key)
        if named is None:
            return  # A row that is missing: reading such an extent is EIO, dropping it is not.
        named.count -= 1
        self._changed.add(key)
        if named.count <= 0:
            self._die(key, named.ref)

    def abandon(self, blob: BlobRef) -> None:
        """A blob that was put and never named is dead, unless it is one that is known."""
        if self._find(_key(blob)) is None:
            self._known[_key(blob)] = _Named(blob, 0)
            self._changed.add(_key(blob))
            self._die(_key(blob), blob)

    def move(self, old: BlobRef, new: BlobRef) -> bool:
        """The bytes of `old` are at `new` too; False when `old` is not a blob that is named."""
        named = self._find(_key(old))
        if named is None or named.count == 0 or named.ref.place != old.place:
            return False
        named.ref = new
        self._changed.add(_key(old))
        return True

    # Flushing

    @property
    def unstored(self) -> bool:
        """True when a flush has something to do."""
        return bool(self._changed or self._dead or self._left or self._forgotten)

    def take(self) -> tuple[list[tuple[BlobRef, int]], list[BlobKey], list[BlobRef]]:
        """Rows to store, rows to delete, and the blobs whose space to free after that."""
        doomed, self._dead, self.dead_bytes = self._dead, {}, 0
        self.distrusted -= doomed.keys()
        rows = [
            (named.ref, named.count) for key in self._changed if (named := self._known.get(key))
        ]
        self._forgetting = {key for key in self._forgotten if key not in self._known}
        for key in doomed:
            del self._known[key]
        self._storing, self._changed = self._changed, set()
        self._forgotten = set()
        self._doomed = doomed
        freed = [*doomed.values(), *self._left.values(), *self._replaced]
        self._freeing = len(self._replaced)
        return rows, list(self._forgetting), freed

    def taken(self, *, failed: bool) -> None:
        """Ends what `take` began; `failed` when nothing was stored and nothing freed."""
        doomed, self._doomed = self._doomed, {}
        self._forgetting = set()
        self._storing = set()
        if not failed:
            self._forgotten |= doomed.keys() | self._left.keys()
            self._left = {}
            del self._replaced[: self._freeing]
            return
        for key, ref in doomed.items():
            self._known.setdefault(key, _Named(ref, 0))
            if self._known[key].count == 0:
                self._die(key, ref)

    def restore(self, rows: list[tuple[BlobRef, int]], gone: list[BlobKey]) -> None:
        """Takes back what `take` returned, when storing it failed."""
        self._changed |= {_key(ref) for ref, _ in rows}
        self._forgotten.update(gone)

    def trim(self, most: int) -> None:
        """Drops known counts that are as stored, when there are too many."""
        if len(self._known) > most:
            keep = self._changed | self._storing | self._dead.keys()
            self._known = {key: self._known[key] for key in keep if key in self._known}

    def _find(self, key: BlobKey) -> _Named | None:
        named = self._known.get(key)
        if named is None and not self._is_gone(key):
            stored = self._load(*key)
            if stored is not None:
                named = self._known[key] = _Named(*stored)
        return named

    def _is_gone(self, key: BlobKey) -> bool:
        """True when the row that is stored says of a blob what is not true any more."""
        absent = (self._left, self._doomed, self._forgotten, self._forgetting)
        return any(key in keys for keys in absent)

    def _die(self, key: BlobKey, ref: BlobRef) -> None:
        self._dead[key] = ref
        self.dead_bytes += ref.size


def _key(ref: BlobRef) -> BlobKey:
    return ref.digest, ref.algorithm
