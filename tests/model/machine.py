"""The machine: draws calls, makes them on every side, and compares."""

import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.model.host import Host
from tests.model.ops import (
    BASE,
    CALLS,
    HARDLINKS_RESTRICTED,
    ME,
    ON_HANDLES,
    USERS,
    Entry,
    Op,
    Result,
    Tree,
    any_error_will_do,
    drawn,
)

TICK_NS = 20_000_000
"""Two changes of one time within this may be one to the host: its clock of times ticks."""


class Side(Protocol):
    """A place in which calls are made.

    Attributes:
        reads_are_seen: a read moves atime; on a mount Linux answers from its pages, and the
            daemon does not hear of it.
    """

    reads_are_seen: bool

    def do(self, op: Op) -> Result: ...

    def tree(self) -> Tree: ...

    def end(self, crash: bool) -> None: ...

    def close(self) -> None: ...


class Machine(RuleBasedStateMachine):
    """Compares the sides that `make_sides` makes with a directory of the host.

    Attributes:
        steps: calls that were compared since the start of the process.
    """

    steps: ClassVar[int] = 0

    def make_sides(self, scratch: Path) -> list[Side]:
        """The sides, with an empty BASE each."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="nexusfs-model-"))
        self.scratch.chmod(0o755)
        self.host = Host(str(self.scratch / "host"))
        make_base(self.scratch / "host")
        self.handles: list[tuple[int, int]] = []
        self.opened = 0
        self.sides = self.make_sides(self.scratch)
        self.trees = [side.tree() for side in self.sides]
        self.host_tree = self.host.tree()

    def teardown(self) -> None:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.scratch)
            for side in self.sides:
                stack.callback(side.close)
            stack.callback(self.host.forget)

    # -- rules

    @rule(op=drawn({**CALLS, **ON_HANDLES, "crash": st.tuples(st.booleans())}))
    def step(self, op: Op) -> None:
        """One call; or a crash or an end, after which every side is as it was."""
        if op.call == "crash":
            self._end(op.args[0])
        elif op.call in ON_HANDLES:
            self._on_a_handle(op)
        else:
            self._on_a_path(op)

    def _on_a_path(self, op: Op) -> None:
        if self._is_restricted(op):
            return
        if op.call != "open":
            self._compare(op)
        elif not self.host.is_special(op.args[0]):
            self.opened += 1
            if self._compare(Op(op.who, "open", (*op.args, self.opened))) == "ok":
                self.handles.append((op.who, self.opened))

    def _on_a_handle(self, op: Op) -> None:
        if not self.handles:
            return
        which = op.args[0] % len(self.handles)
        who, handle = self.handles[which]
        if op.call == "close":
            del self.handles[which]
        self._compare(Op(who, op.call, (handle, *op.args[1:])))

    def _end(self, crash: bool) -> None:
        self.host.forget()
        self.handles.clear()
        for number, side in enumerate(self.sides):
            before = self.trees[number]
            side.end(crash)
            after = self.trees[number] = side.tree()
            assert lasting(after) == lasting(before), f"{side} after a new start, {crash=}"
        self.host_tree = self.host.tree()

    # -- comparing

    def _compare(self, op: Op) -> str:
        """Makes the call everywhere; `ok` or `error`."""
        Machine.steps += 1
        expected = self.host.do(op)
        self.done_ns = time.time_ns()
        for side in self.sides:
            found = side.do(op)
            if not (found[0] == expected[0] == "error" and any_error_will_do(op)):
                assert found == expected, f"{op}: {side} gave {found}, the host {expected}"
        before, self.host_tree = self.host_tree, self.host.tree()
        for number in range(len(self.sides)):
            self._compare_trees(op, number, before)
        return expected[0]

    def _compare_trees(self, op: Op, number: int, host_before: Tree) -> None:
        side, before = self.sides[number], self.trees[number]
        after = self.trees[number] = side.tree()
        for path in after.keys() | self.host_tree.keys():
            ours, theirs = after.get(path), self.host_tree.get(path)
            assert ours and theirs and ours.same == theirs.same, (
                f"{op}: {path} on {side} is {ours}, on the host {theirs}"
            )
        names = {entry.ino: path for path, entry in before.items()}
        for path, entry in after.items():
            name = names.get(entry.ino)
            if name is None or host_before[name].ino != self.host_tree[path].ino:
                continue  # It is new, here or there; a number may be used again.
            hosts = host_before[name], self.host_tree[path]
            times = time_fault(before[name], entry, *hosts, self.done_ns)
            if times.startswith("atime did not") and not side.reads_are_seen:
                continue
            assert not times, f"{op}: {times} of {path} on {side}"

    def _is_restricted(self, op: Op) -> bool:
        """True for a hard link to what is somebody else's, which Linux may forbid beyond POSIX."""
        if op.call != "link" or not HARDLINKS_RESTRICTED or USERS[op.who].is_root:
            return False
        return self.host.owner(op.args[0]) not in (None, USERS[op.who].uid)


def make_base(root: Path) -> None:
    """BASE below a directory: everybody's."""
    (root / BASE).mkdir(parents=True)
    for path in [root, *(root / part for part in Path(BASE).parents), root / BASE]:
        os.chown(path, ME.uid, ME.gid)
        path.chmod(0o777 if path == root / BASE else 0o755)


def lasting(tree: Tree) -> dict[str, Any]:
    """What must outlive a crash: all but atime."""
    return {path: (entry.ino, entry.same, entry.times_ns[1:]) for path, entry in tree.items()}


def time_fault(before: Entry, after: Entry, host_before: Entry, host_after: Entry, now: int) -> str:
    """Which time moved here and not on the host, or there and not here; empty when all agree.

    A time that did not move on the host, and was of the very moment of the call, `now`, tells
    nothing.
    """
    kind = int(after.same[0], 8) & 0o170000
    for index, name in enumerate(("atime", "mtime", "ctime")):
        if index == 0 and (kind != 0o100000 or now - max(host_before.times_ns) < TICK_NS):
            continue
        moved = after.times_ns[index] != before.times_ns[index]
        expected = host_after.times_ns[index] != host_before.times_ns[index]
        if moved and not expected and now - host_before.times_ns[index] < TICK_NS:
            continue
        if moved != expected:
            verb = "moved" if moved else "did not move"
            return f"{name} {verb}, from {before.times_ns}, on the host {host_before.times_ns},"
    return ""
