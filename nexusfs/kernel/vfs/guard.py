"""The paths of agents: each file call of a tool, or of a program that a tool runs, is checked here.

Checked is what a path leads to and not what it says: the directories that the opened node really
is in, up to the root, against the directories that the granted paths name now. So neither `..`, a
symlink, a rename nor another name of a directory leads out. A file that Linux names by its number
alone is in some directory that its caller could walk to: of programs, the sandbox holds that.

People are never asked more than whether they are an agent.
"""

import os
from collections.abc import Callable, Sequence

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import AccessError, NotFoundError
from nexusfs.contracts.node import Changed, File, Node
from nexusfs.contracts.rights import Grant
from nexusfs.kernel.vfs.mounts import MountTable

LOOK = os.X_OK
"""To see that something is there and what its attributes are, or to walk through it."""
WALKS_MAX = 10_000
"""Granted paths whose way is kept in memory, 300 bytes each."""
GUARDED_DOORS = ("tool", "fuse")
"""What the kernel itself does for an agent (its home, its checkpoints) comes by others."""

Lists = Sequence[Sequence[Grant]]
Trail = tuple[int, ...]


class Guard:
    """Checks nodes against the paths of the agent that asks."""

    def __init__(self, mounts: MountTable) -> None:
        """Boot sets `lists_of`: agent pid → lists of grants that must all grant a call."""
        self._root = mounts.root
        self._walks: dict[str, tuple[Trail, bool]] = {}
        self._steps: set[tuple[int, bytes]] = set()
        self.lists_of: Callable[[int], Lists] = lambda _: ()

    def changed(self, change: Changed) -> None:
        """Forgets where granted paths lead, when a name on the way has changed."""
        if change.name is not None and (change.node.ino, change.name) in self._steps:
            self._walks.clear()
            self._steps.clear()

    def binds(self, cred: Credentials) -> bool:
        """True for a caller whose paths count."""
        return cred.door in GUARDED_DOORS and cred.agent_pid > 0

    async def check(
        self, cred: Credentials, node: Node, mask: int, within: Node | None = None
    ) -> None:
        """AccessError EACCES unless the caller's paths grant `mask` (R_OK | W_OK | LOOK).

        `within` is the directory in which the node was found. NotFoundError ENOENT for a control
        file that is not there for the caller: Linux may know it from somebody else's walk.
        """
        if node.control:
            if not node.seen_by(cred):
                raise NotFoundError("no such file of your zone")
            return
        if not self.binds(cred):
            return
        lists = self.lists_of(cred.agent_pid)
        if not lists:
            return
        chain, whole = await self._chain(node, within)
        for grants in lists:
            if not await self._grant(grants, chain, mask, whole=whole):
                raise AccessError(_sentence(mask, grants))

    def asks(self, cred: Credentials, node: Node) -> bool:
        """False where `check` would let everything pass, so that it need not be awaited."""
        return node.control or self.binds(cred)

    async def check_moved(self, cred: Credentials, node: Node, within: Node) -> None:
        """AccessError EACCES unless the caller may take the node out of `within`.

        What a granted path leads through stays where it is: whatever is below it would be under
        another rule elsewhere.
        """
        if not self.binds(cred) or node.control:
            return
        await self.check(cred, node, os.W_OK, within)
        for grants in self.lists_of(cred.agent_pid):
            for one in grants:
                if node.ino in await self._trail(one.path):
                    raise AccessError(f"your rights name {one.path}: it cannot be moved or removed")

    async def recheck(self, file: File, mask: int) -> None:
        """Checks an open file again: the agent, or an ancestor, may have been cut since."""
        await self.check(file.cred, file.node, mask, file.within)

    async def _chain(self, node: Node, within: Node | None) -> tuple[list[int], bool]:
        """Numbers of the node and the directories that it is in; True when up to the root."""
        chain = [node.ino]
        above = await node.above() or within
        while above is not None:
            chain.append(above.ino)
            above = await above.above()
        return chain, chain[-1] == self._root.ino

    async def _grant(
        self, grants: Sequence[Grant], chain: list[int], mask: int, *, whole: bool
    ) -> bool:
        trails = [(one, *await self._walked(one.path)) for one in grants]
        there = {trail[-1]: one for one, trail, found in trails if found}
        for ino in chain:
            one = there.get(ino)
            if one is not None:
                return one.access == "rw" or not mask & os.W_OK
        if not whole:
            return True
        return mask == LOOK and any(chain[0] in trail for _, trail, _ in trails)

    async def _trail(self, path: str) -> Trail:
        return (await self._walked(path))[0][1:]

    async def _walked(self, path: str) -> tuple[Trail, bool]:
        """The numbers from the root along a granted path, and whether it is there to its end.

        A symlink on the way ends it: a grant is of what it was at the spawn, see `real_path`.
        What was found is kept until a name on the way changes: every file call asks.
        """
        known = self._walks.get(path)
        if known is None:
            if len(self._walks) >= WALKS_MAX:
                self._walks.clear()
                self._steps.clear()
            known = self._walks[path] = await self._walk(path)
        return known

    async def _walk(self, path: str) -> tuple[Trail, bool]:
        node, trail = self._root, [self._root.ino]
        for name in path.encode("utf-8", "surrogateescape").split(b"/"):
            if not name:
                continue
            self._steps.add((node.ino, name))
            found = await node.find(_NOBODY, name) if (await node.stat()).is_dir else None
            if found is None:
                return tuple(trail), False
            node = found
            trail.append(node.ino)
        return tuple(trail), True


_NOBODY = Credentials(0, 0, door="kernel")


def _sentence(mask: int, grants: Sequence[Grant]) -> str:
    what = "write to" if mask & os.W_OK else "read" if mask & os.R_OK else "see"
    shown = ", ".join(f"{one.path} ({one.access})" for one in grants[:10]) or "nothing"
    return f"its rights do not let the agent {what} this path: they have {shown}"
