"""Random families of agents: nobody can do what some ancestor could not hand on."""

from collections.abc import Callable
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusfs.contracts.errors import NotPermittedError
from nexusfs.contracts.rights import access_of
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ROOT, MemoryJournal, spawned
from tests.unit.kernel.proc.conftest import TOOLS, until_a_message

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/b", "/bin", "/etc/x"]
MODELS = ["offline/echo", "offline/demo", "a/b"]

TOOL_LISTS = st.lists(st.sampled_from([*TOOLS, "*", "g*", "l*"]), max_size=4, unique=True)
PATH_LISTS = st.lists(
    st.fixed_dictionaries({"path": st.sampled_from(PATHS), "access": st.sampled_from(["r", "rw"])}),
    max_size=3,
)
BOUNDS = {"tools": TOOL_LISTS, "paths": PATH_LISTS}
DELEGATE = st.fixed_dictionaries(
    {},
    optional={
        **BOUNDS,
        "models": st.lists(st.sampled_from([*MODELS, "offline/*"]), max_size=2),
    },
)
RIGHTS = st.fixed_dictionaries(
    {},
    optional={**BOUNDS, "disallowed_tools": TOOL_LISTS, "delegate": DELEGATE},
)
SPECS = st.tuples(
    RIGHTS,
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(MODELS),
            "life": st.sampled_from(["owned", "detached"]),
            "on_excess": st.just("clamp"),
        },
    ),
).map(lambda both: {**both[0], **both[1]})
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("spawn"), st.integers(0, 30), SPECS),
        st.tuples(st.just("cut"), st.integers(0, 30), RIGHTS.filter(bool)),
        st.tuples(st.just("kill"), st.integers(0, 30), st.none()),
    ),
    max_size=14,
)


class Family:
    """A table, and beside it what the rules say: who is whose child, what each was given."""

    def __init__(self, table: ProcessTable) -> None:
        self.table = table
        self.agents: list[Process] = []
        self.parents: dict[int, Process | None] = {}

    async def act(self, kind: str, number: int, what: Any) -> None:
        living = [agent for agent in self.agents if not agent.state.ended]
        one = (
            living[number % (len(living) + 1)] if number % (len(living) + 1) < len(living) else None
        )
        if kind == "spawn":
            try:
                made = await spawned(self.table, one, **what)
            except NotPermittedError:
                return
            self.agents.append(made)
            self.parents[made.pid] = one
        elif one is not None and kind == "cut":
            self.table.restrict(ROOT, one.pid, what)
        elif one is not None:
            self.table.kill(ROOT, one.pid)

    def ancestors(self, agent: Process) -> list[Process]:
        found: list[Process] = []
        parent = self.parents[agent.pid]
        while parent is not None:
            found.append(parent)
            parent = self.parents[parent.pid]
        return found


def check(family: Family) -> None:
    for agent in family.agents:
        above = family.ancestors(agent)
        for tool in TOOLS:
            own = all(caveat.use.allows("tools", tool) for caveat in agent.rights.caveats)
            handed = all(
                caveat.hand_on.allows("tools", tool) for a in above for caveat in a.rights.caveats
            )
            assert agent.rights.may_use(tool) == (own and handed)
            for ancestor in above:
                assert ancestor.rights.may_hand_on("tools", tool) or not agent.rights.may_use(tool)
        for path in [*PATHS, "/a/b/c/d", "/c"]:
            access = min(access_of(grants, path) for grants in agent.rights.grants())
            assert access == access_of(agent.rights.paths(), path)
            for ancestor in above:
                assert access <= ancestor.rights.hand_on_access(path)
        if not above:
            continue
        for ancestor in above:
            model = agent.spec.model
            assert ancestor.rights.may_hand_on("models", model) or not agent.rights.may_call(model)


def run(main: Callable[[trio.Nursery], Any]) -> None:
    async def body() -> None:
        async with trio.open_nursery() as nursery:
            await main(nursery)
            nursery.cancel_scope.cancel()

    trio.run(body)


@settings(max_examples=150, deadline=None)
@given(acts=ACTS)
def test_no_descendant_can_do_what_some_ancestor_could_not_hand_on(
    acts: list[tuple[str, int, Any]],
) -> None:
    async def main(nursery: trio.Nursery) -> None:
        journal = MemoryJournal()
        table = ProcessTable(journal, lambda: TOOLS)
        table.program = until_a_message
        table.start(nursery)
        family = Family(table)
        for kind, number, what in acts:
            await family.act(kind, number, what)
            check(family)
        again = ProcessTable(journal, lambda: TOOLS)
        again.restore()
        for agent in family.agents:
            same = again.get(agent.pid)
            assert again.tools_of(same) == table.tools_of(agent)
            assert same.rights.grants() == agent.rights.grants()

    run(main)
