"""What an agent may use and hand on: a chain of caveats that must all hold, appended at spawn.

Two sets: what an agent may *use* is what its own caveats say and what all its ancestors may *hand
on*. The chain is followed through the ancestors' own objects each time, so that a caveat which an
ancestor gets later binds its descendants from that moment, whoever their parent is by then. What
was found is kept until a caveat is added anywhere in the tree (`Tree.generation`), and what follows
from a chain's names alone is kept for all agents with an equal one.

Concurrency: in the trio thread; nothing suspends.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import trio

from nexusfs.contracts.proc import KERNEL_PID
from nexusfs.contracts.rights import Grant, Rules, access_of, joined
from nexusfs.kernel.proc.caveats import SHARED_CHARS, Bounds, Caveat, Named

KNOWN_MAX = 1000
"""Names whose verdict is kept for one chain: models may have any name."""

Lists = tuple[tuple[Grant, ...], ...]
"""Lists of paths that must all grant a file call; empty: all paths."""


@lru_cache(1000)
def _verdicts(chain: tuple[Named, ...]) -> dict[tuple[str, str], bool]:
    """What is known of a chain, for all who have an equal one: (kind, name) → let through."""
    return {}


@lru_cache(1000)
def _usable(chain: tuple[Named, ...], tools: tuple[str, ...]) -> tuple[str, ...]:
    return _let_through(chain, tools)


def _let_through(chain: tuple[Named, ...], tools: tuple[str, ...]) -> tuple[str, ...]:
    """The tools that every link of a chain lets through."""
    links = [Bounds.of_named(link) for link in chain]
    return tuple(name for name in tools if all(one.allows("tools", name) for one in links))


@dataclass(slots=True)
class Tree:
    """What all chains of one family share: how often a caveat was added, and who waits for one."""

    generation: int = 0
    waiters: trio.lowlevel.ParkingLot | None = None


@dataclass(slots=True, eq=False)
class Rights:
    """The caveats of one process, and the way to those of its ancestors.

    Attributes:
        pid: whose they are.
        caveats: its own, in the order in which they came.
        above: its parent's at its spawn; None for what a person started.
    """

    pid: int = 0
    caveats: tuple[Caveat, ...] = ()
    above: "Rights | None" = None
    _tree: Tree = field(default_factory=Tree)
    _known: dict[tuple[str, str], bool] | None = None
    _chain: tuple[Named, ...] = ()
    _chars: int = 0
    _paths: Lists = ()
    _generation: int = -1

    def hang_below(self, above: "Rights | None") -> None:
        """Says whose child it is."""
        self.above = above
        if above is not None:
            self._tree = above._tree
        self._tree.generation += 1

    def add(self, caveat: Caveat) -> None:
        """Cuts this process and, at once, all its descendants."""
        self.caveats = (*self.caveats, caveat)
        self._tree.generation += 1
        if self._tree.waiters is not None:
            self._tree.waiters.unpark_all()

    async def paths_change(self, before: Lists) -> None:
        """Suspends while the same paths are granted as `before`. Cancelling has no effect."""
        while self.grants() == before:
            self._tree.waiters = self._tree.waiters or trio.lowlevel.ParkingLot()
            await self._tree.waiters.park()

    def may_use(self, tool: str) -> bool:
        """True when every caveat of the chain lets the tool through."""
        return self._may("tools", tool)

    def usable(self, tools: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the tools that it may use, in their order."""
        if self._known is None or self._generation != self._tree.generation:
            self._look()
        if self._chars > SHARED_CHARS:
            return _let_through(self._chain, tools)
        return _usable(self._chain, tools)

    def may_hand_on(self, kind: str, name: str) -> bool:
        """True when a child may get a tool, model or agent of that name."""
        return all(bounds.allows(kind, name) for _, bounds in self.handed_on())

    def may_call(self, model: str) -> bool:
        """True when the ancestors hand the model on."""
        return self._may("models", model)

    def denier(self, kind: str, name: str) -> int | None:
        """The pid of the nearest whose caveat is in the way of using something; None: nobody's."""
        return next((pid for pid, one in self.used() if not one.allows(kind, name)), None)

    def grants(self) -> Lists:
        """The lists of paths that must all grant a file call."""
        if self._generation != self._tree.generation:
            self._look()
        return self._paths

    def paths(self) -> tuple[Grant, ...]:
        """The same as one list."""
        return joined(list(self.grants()))

    def hand_on_access(self, path: str) -> str:
        """`rw`, `r` or nothing: what a child may get of a path."""
        lists = [bounds.paths for _, bounds in self.handed_on() if bounds.paths is not None]
        return min((access_of(grants, path) for grants in lists), default="rw")

    def rules(self) -> Iterator[tuple[int, Rules]]:
        """(pid, rules) of the whole chain: they bind descendants as they bind whose they are."""
        rights: Rights | None = self
        while rights is not None:
            for caveat in rights.caveats:
                if caveat.rules is not None:
                    yield rights.pid, caveat.rules
            rights = rights.above

    def used(self) -> Iterator[tuple[int, Bounds]]:
        """(pid, bounds) of the chain that binds what it uses, its own first."""
        for caveat in self.caveats:
            yield self.pid, caveat.use
        if self.above is not None:
            yield from self.above.handed_on()

    def handed_on(self) -> Iterator[tuple[int, Bounds]]:
        """(pid, bounds) of the chain that binds what it may hand on."""
        rights: Rights | None = self
        while rights is not None:
            for caveat in rights.caveats:
                yield rights.pid, caveat.hand_on
            rights = rights.above

    def shown(self, tools: list[str]) -> dict[str, Any]:
        """What proc/<pid>/grants says: each right with the pid of the one who set it."""
        used = list(self.used())
        return {
            "tools": {name: self._shown_tool(name, used) for name in tools},
            "paths": [
                {"path": one.path, "access": one.access, "by": self._path_setter(one, used)}
                for one in self.paths()
            ],
            "models": [{"only": list(b.models), "by": pid} for pid, b in used if b.models],
            "hand_on": {
                "tools": [name for name in tools if self.may_hand_on("tools", name)],
                **{
                    kind: [
                        {"only": list(globs), "by": pid}
                        for pid, bounds in self.handed_on()
                        if (globs := getattr(bounds, kind)) is not None
                    ]
                    for kind in ("models", "agents")
                },
            },
        }

    def _shown_tool(self, name: str, used: list[tuple[int, Bounds]]) -> dict[str, Any]:
        denier = self.denier("tools", name)
        if denier is not None:
            return {"use": False, "by": denier}
        setter = next((pid for pid, bounds in used if bounds.tools is not None), KERNEL_PID)
        return {"use": True, "by": setter}

    def _path_setter(self, one: Grant, used: list[tuple[int, Bounds]]) -> int:
        """Who set the access of a path: the nearest that grants no more."""
        return next(
            pid
            for pid, bounds in used
            if bounds.paths is not None and access_of(bounds.paths, one.path) == one.access
        )

    def _may(self, kind: str, name: str) -> bool:
        verdicts = self._known
        if verdicts is None or self._generation != self._tree.generation:
            verdicts = self._look()
        known = verdicts.get((kind, name))
        if known is None:
            known = all(bounds.allows(kind, name) for bounds in map(Bounds.of_named, self._chain))
            if len(verdicts) < KNOWN_MAX:
                verdicts[kind, name] = known
        return known

    def _look(self) -> dict[tuple[str, str], bool]:
        """Finds anew what follows from the chain; what is known of names."""
        chain = [bounds for _, bounds in self.used()]
        self._chain = tuple(one.named for one in chain)
        self._chars = sum(one.chars for one in chain)
        self._known = _verdicts(self._chain) if self._chars <= SHARED_CHARS else {}
        paths: list[tuple[Grant, ...]] = []
        for one in chain:
            if one.paths is not None and one.paths not in paths:
                paths.append(one.paths)
        self._paths = tuple(paths)
        self._generation = self._tree.generation
        return self._known
