"""The chain of caveats: what one may use, what one may hand on, and who decides it."""

import json
from typing import Any

import pytest

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, InvalidError, NotPermittedError
from nexusfs.contracts.rights import EVERYTHING, Grant, access_of, grant, joined
from nexusfs.kernel.proc.caveats import Bounds, Caveat
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rights import Rights
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ALICE, BOB, ROOT, MemoryJournal, spawned, spec
from tests.unit.kernel.proc.conftest import TOOLS


def tools_bound(*allowed: str, denied: tuple[str, ...] = ()) -> Caveat:
    bounds = Bounds(allowed, denied)
    return Caveat(bounds, bounds)


@pytest.mark.parametrize(
    ("allowed", "denied", "may"),
    [
        (None, (), True),
        ((), (), False),
        (("grep",), (), True),
        (("gr*",), (), True),
        (("Grep",), (), False),
        (("*",), ("grep",), False),
        (("*",), ("g*",), False),
        (("grep",), ("glob",), True),
    ],
)
def test_a_caveat_denies_first(
    allowed: tuple[str, ...] | None, denied: tuple[str, ...], may: bool
) -> None:
    assert Bounds(allowed, denied).allows("tools", "grep") is may


def test_every_caveat_of_a_chain_must_hold() -> None:
    top = Rights(2, (tools_bound("grep", "glob"),))
    below = Rights(3, (tools_bound("*", denied=("glob",)),))
    below.hang_below(top)

    assert [below.may_use(tool) for tool in ("grep", "glob", "act")] == [True, False, False]


def test_a_caveat_is_the_same_after_the_journal() -> None:
    caveat = Caveat.of(
        spec(
            tools=[], disallowed_tools="x", paths=[{"path": "/a", "access": "r"}],
            delegate={"tools": ["*"], "models": ["offline/*"], "agents": [], "paths": []},
        )
    )  # fmt: skip

    assert Caveat.of_json(caveat.to_json()) == caveat


# Using and handing on


async def test_an_agent_may_hand_on_what_it_may_not_use(table: ProcessTable) -> None:
    planner = await spawned(table, tools=["look"], delegate={"tools": ["look", "act"]})
    worker = await spawned(table, planner, tools=["act"])

    assert (table.tools_of(planner), table.tools_of(worker)) == (["look"], ["act"])


async def test_an_agent_may_use_what_it_may_not_hand_on(table: ProcessTable) -> None:
    parent = await spawned(table, delegate={"tools": ["grep"]})
    child = await spawned(table, parent)

    assert (table.tools_of(parent), table.tools_of(child)) == (TOOLS, ["grep"])
    with pytest.raises(NotPermittedError, match="act"):
        await spawned(table, parent, tools=["act"])


async def test_a_child_hands_on_no_more_than_its_parent_does(table: ProcessTable) -> None:
    parent = await spawned(table, delegate={"tools": ["grep"]})

    with pytest.raises(NotPermittedError, match="act"):
        await spawned(table, parent, delegate={"tools": ["act"]})


@pytest.mark.parametrize(
    ("given", "asked", "at_fault"),
    [
        ({"models": ["offline/*"]}, {"model": "a/b"}, "a/b"),
        ({"models": ["offline/*"]}, {"model": "offline/echo", "fallback_models": "a/b"}, "a/b"),
        ({"agents": ["helper"]}, {"agent": "other"}, "other"),
        ({"agents": ["helper"]}, {}, "not installed"),
        ({"paths": [{"path": "/a"}]}, {"paths": [{"path": "/b"}]}, r"/b \(rw\)"),
        ({"paths": [{"path": "/a", "access": "r"}]}, {"paths": [{"path": "/a/x"}]}, r"/a/x \(rw\)"),
        ({"tools": "g*"}, {"tools": ["act", "grep"]}, "act"),
    ],
)
async def test_a_child_that_asks_for_more_is_told_what_was_too_much(
    table: ProcessTable, given: dict[str, Any], asked: dict[str, Any], at_fault: str
) -> None:
    async def load(cred: Credentials, name: str) -> Any:
        return spec(agent=name, name=name)

    table.load_agent = load
    parent = await spawned(table, model="offline/demo", delegate=given)

    with pytest.raises(NotPermittedError, match=at_fault):
        await spawned(table, parent, **asked)
    assert not parent.children


async def test_a_child_that_says_clamp_gets_what_there_is(table: ProcessTable) -> None:
    parent = await spawned(table, paths=[{"path": "/a", "access": "r"}])
    child = await spawned(table, parent, paths=[{"path": "/a"}, {"path": "/b"}], on_excess="clamp")

    assert child.rights.paths() == (grant("/a", "r"),)
    assert child.warnings == ("/a (rw): narrowed away", "/b (rw): narrowed away")


# Cutting


async def test_cutting_an_ancestor_cuts_its_descendants_at_once(table: ProcessTable) -> None:
    top = await spawned(table, cred=ALICE)
    grandchild = await spawned(table, await spawned(table, top))
    before = table.tools_of(grandchild)

    table.restrict(ALICE, top.pid, {"disallowed_tools": ["act"]})

    assert (before, table.tools_of(grandchild)) == (TOOLS, TOOLS[1:])


async def test_a_cut_of_a_child_leaves_its_parent(table: ProcessTable) -> None:
    top = await spawned(table)
    child = await spawned(table, top)

    table.restrict(ROOT, child.pid, {"tools": []})

    assert (table.tools_of(top), table.tools_of(child)) == (TOOLS, [])


async def test_a_detached_child_stays_bound_by_who_spawned_it(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    top = await spawned(table)
    child = await spawned(table, top, tools=["grep", "act"])
    detached = await spawned(table, child, life="detached")
    table.kill(ROOT, child.pid)
    table.reap(ROOT, child.pid)

    table.restrict(ROOT, top.pid, {"disallowed_tools": ["act"]})

    assert table.tools_of(detached) == ["grep"]
    again = ProcessTable(journal, lambda: TOOLS)
    again.restore()
    assert again.tools_of(again.get(detached.pid)) == ["grep"]
    assert again.find(child.pid) is None


async def test_who_is_reaped_goes_with_the_last_that_it_spawned(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    child = await spawned(table, await spawned(table), life="detached")
    parent_pid = child.parent_pid
    table.kill(ROOT, parent_pid)
    table.reap(ROOT, parent_pid)
    kept = parent_pid in journal.pids()
    table.kill(ROOT, child.pid)
    table.reap(ROOT, child.pid)

    assert (kept, journal.pids()) == (True, [])


async def test_a_cut_holds_after_a_restart(table: ProcessTable, journal: MemoryJournal) -> None:
    top = await spawned(table)
    child = await spawned(table, top)
    table.restrict(ROOT, top.pid, {"tools": ["grep"]})

    again = ProcessTable(journal, lambda: TOOLS)
    again.restore()

    assert again.tools_of(again.get(child.pid)) == ["grep"]


async def test_an_agent_whose_parent_cannot_be_read_may_use_nothing(
    table: ProcessTable, journal: MemoryJournal, caplog: pytest.LogCaptureFixture
) -> None:
    top = await spawned(table)
    child = await spawned(table, top)
    journal.lines[top.pid] = [b"garbage"]

    again = ProcessTable(journal, lambda: TOOLS)
    again.restore()

    assert again.tools_of(again.get(child.pid)) == []
    caplog.clear()


async def test_reading_the_events_of_an_ended_agent_gives_nobody_more(
    table: ProcessTable, journal: MemoryJournal, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own parent cannot be read, so nothing is handed on; of two equal families neither."""
    families = []
    for _ in range(2):
        top = await spawned(table, mode="chat", delegate={"tools": ["grep"], "models": ["a/b"]})
        middle = await spawned(table, top, mode="chat", life="detached", model="a/b")
        low = await spawned(table, middle, mode="chat", life="detached", model="a/b")
        table.kill(ROOT, middle.pid)
        journal.lines[top.pid] = [b"garbage"]
        families.append((middle.pid, low.pid))
    again = ProcessTable(journal, lambda: TOOLS)
    again.restore()
    (first, first_low), (_, second_low) = families

    assert again.get(first).events.data
    again.restrict(ROOT, first_low, {"tools": ["grep", "glob"]})

    for rights in (again.get(first_low).rights, again.get(second_low).rights):
        assert (rights.may_call("a/b"), rights.may_use("grep"), rights.grants()) == (
            False, False, ((),)
        )  # fmt: skip
        assert rights.usable(("grep", "glob")) == ()
    caplog.clear()


async def test_an_ended_agent_whose_events_cannot_be_read_stays_bound(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    agent = await spawned(table, limits={"turns": 3})
    table.kill(ROOT, agent.pid)
    again = ProcessTable(journal, lambda: TOOLS)
    again.restore()
    ended = again.get(agent.pid)
    rights, account = ended.rights, ended.account
    journal.lines[agent.pid].insert(1, b"garbage")

    with pytest.raises(ValueError):
        _ = ended.events

    assert ended.rights is rights and ended.account is account


def test_a_long_caveat_is_kept_by_its_own_agents_alone() -> None:
    short = [Caveat.of(spec(tools=["grep"], mode="chat")) for _ in range(2)]
    many = [f"tool-{number}" for number in range(1000)]
    long = [Caveat.of(spec(tools=many, mode="chat")) for _ in range(2)]

    assert short[0].shared() is short[1].shared()
    assert long[0].shared() is not long[1].shared()
    line = json.dumps(long[0].to_json()).encode()
    assert Caveat.of_line(line) == long[0] and Caveat.of_line(line) is not Caveat.of_line(line)


@pytest.mark.parametrize("who", ["bob", "itself", "child"])
async def test_only_its_owner_and_its_ancestors_cut_an_agent(table: ProcessTable, who: str) -> None:
    agent = await spawned(table, cred=ALICE)
    child = await spawned(table, agent)
    cred = {"bob": BOB, "itself": agent.cred, "child": child.cred}[who]

    with pytest.raises(NotPermittedError):
        table.restrict(cred, agent.pid, {"tools": []})
    assert table.tools_of(agent) == TOOLS


@pytest.mark.parametrize("cut", [{}, {"task": "x"}, {"tool": []}, {"paths": ["/a"]}])
async def test_a_cut_that_is_none_is_refused(table: ProcessTable, cut: dict[str, Any]) -> None:
    agent = await spawned(table)

    with pytest.raises(InvalidError):
        table.restrict(ROOT, agent.pid, cut)


async def test_an_agent_that_has_ended_is_not_cut(table: ProcessTable) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)

    with pytest.raises(BusyError):
        table.restrict(ROOT, agent.pid, {"tools": []})


# Paths


def granted(**paths: str) -> tuple[Grant, ...]:
    return tuple(
        Grant.model_validate({"path": "/" + path.replace("_", "/"), "access": access})
        for path, access in paths.items()
    )


@pytest.mark.parametrize(
    ("path", "access"),
    [("/a", "rw"), ("/a/x", "rw"), ("/a/b", "r"), ("/a/b/c", "r"), ("/ab", ""), ("/", "")],
)
def test_of_two_grants_the_longer_path_decides(path: str, access: str) -> None:
    assert access_of(granted(a="rw", a_b="r"), path) == access


def test_lists_of_paths_join_to_what_all_of_them_grant() -> None:
    found = joined([granted(a="rw", b="r"), granted(a="r", a_x="rw", c="rw"), EVERYTHING])

    assert found == (grant("/a", "r"), grant("/a/x", "rw"))


async def test_what_a_person_starts_changes_neither_agents_nor_rules(table: ProcessTable) -> None:
    agent = await spawned(table)

    assert agent.rights.paths() == EVERYTHING


async def test_who_grants_bin_by_name_means_it(table: ProcessTable) -> None:
    agent = await spawned(table, paths=[{"path": "/"}, {"path": "/bin"}])

    assert access_of(agent.rights.paths(), "/bin/x.md") == "rw"
    assert access_of(agent.rights.paths(), "/etc/x") == "r"


async def test_an_agents_home_is_among_its_paths_where_its_parent_has_it(
    table: ProcessTable,
) -> None:
    parent = await spawned(table, name="top", paths=[{"path": "/work"}])
    child: Process = await spawned(table, parent, name="victim", paths=[{"path": "/work"}])

    assert access_of(parent.rights.paths(), "/home/top") == "rw"
    assert access_of(child.rights.paths(), "/home/victim") == ""


# Who decides


async def test_grants_say_whose_caveat_decides(table: ProcessTable) -> None:
    top = await spawned(table, tools=["grep", "look"])
    child = await spawned(table, top, tools=["look"], paths=[{"path": "/a", "access": "r"}])

    shown = child.rights.shown(TOOLS)

    assert shown["tools"]["act"] == {"use": False, "by": child.pid}
    assert shown["tools"]["look"] == {"use": True, "by": child.pid}
    table.restrict(ROOT, top.pid, {"disallowed_tools": ["look"]})
    assert child.rights.shown(TOOLS)["tools"]["look"] == {"use": False, "by": top.pid}
    assert shown["paths"] == [{"path": "/a", "access": "r", "by": child.pid}]


async def test_a_childs_prompts_go_nowhere_else_than_its_parents(table: ProcessTable) -> None:
    async def load(cred: Credentials, name: str) -> Any:
        return spec(agent=name, name=name, model_settings={"api_base": "http://installed"})

    table.load_agent = load
    parent = await spawned(table, model_settings={"api_base": "http://own"})

    for settings in ({}, {"api_base": "http://own", "temperature": 1.0}):
        await spawned(table, parent, model_settings=settings)
    await spawned(table, parent, agent="helper")
    for name in ("api_base", "base_url", "extra_headers"):
        with pytest.raises(NotPermittedError, match=f"model_settings.{name}"):
            await spawned(table, parent, model_settings={name: "http://elsewhere"})


async def test_the_spec_of_a_child_shows_the_paths_that_it_inherits(table: ProcessTable) -> None:
    parent = await spawned(table, paths=[{"path": "/a", "access": "r"}])
    child = await spawned(table, parent)

    assert child.spec.paths == (grant("/a", "r"),)
    again = await spawned(table, parent, **child.spec.to_dict())
    assert again.spec == child.spec
