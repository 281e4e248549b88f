"""Who may do what to whom, and what a new agent may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import InvalidError, NotPermittedError
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ALICE, BOB, ROOT, spawned, spec
from tests.unit.kernel.proc.conftest import TOOLS

# Signals


@dataclass
class Family:
    """Alice's agents: top, its child, grandchild and a second child; and another top."""

    top: Process
    child: Process
    grandchild: Process
    sibling: Process
    stranger: Process


@pytest.fixture
async def family(table: ProcessTable) -> Family:
    top, stranger = await spawned(table, cred=ALICE), await spawned(table, cred=ALICE)
    child, sibling = await spawned(table, top), await spawned(table, top)
    return Family(top, child, await spawned(table, child), sibling, stranger)


def may_signal(table: ProcessTable, cred: Credentials, process: Process) -> bool:
    try:
        table.check_owner(cred, process)
    except NotPermittedError:
        return False
    return True


@pytest.mark.parametrize(("cred", "may"), [(ROOT, True), (ALICE, True), (BOB, False)])
async def test_people_may_signal_their_own_agents_and_root_all(
    table: ProcessTable, family: Family, cred: Credentials, may: bool
) -> None:
    assert may_signal(table, cred, family.grandchild) is may


@pytest.mark.parametrize(
    ("who", "whom", "may"),
    [
        ("top", "child", True),
        ("top", "grandchild", True),
        ("child", "grandchild", True),
        ("top", "top", False),
        ("child", "top", False),
        ("child", "sibling", False),
        ("top", "stranger", False),
        ("sibling", "grandchild", False),
    ],
)
async def test_an_agent_may_signal_its_descendants_only(
    table: ProcessTable, family: Family, who: str, whom: str, may: bool
) -> None:
    cred = getattr(family, who).cred

    assert may_signal(table, cred, getattr(family, whom)) is may


async def test_an_agent_of_root_is_bound_as_any_other(table: ProcessTable) -> None:
    one, other = await spawned(table), await spawned(table)

    assert not may_signal(table, one.cred, other)


async def test_an_adopted_agent_is_no_descendant_any_more(table: ProcessTable) -> None:
    top = await spawned(table)
    child = await spawned(table, top)
    detached = await spawned(table, child, life="detached")
    before = may_signal(table, top.cred, detached)
    table.kill(ROOT, child.pid)

    assert (before, may_signal(table, top.cred, detached)) == (True, False)


@pytest.mark.parametrize("act", ["kill", "interrupt", "stop", "cont", "reap"])
async def test_every_signal_checks_the_owner(table: ProcessTable, act: str) -> None:
    agent = await spawned(table, cred=ALICE)

    with pytest.raises(NotPermittedError):
        getattr(table, act)(BOB, agent.pid)
    assert agent.state == "running"


@pytest.mark.parametrize("act", ["send", "steer"])
async def test_every_message_checks_the_owner(table: ProcessTable, act: str) -> None:
    agent = await spawned(table, cred=ALICE)

    with pytest.raises(NotPermittedError):
        getattr(table, act)(BOB, agent.pid, "psst")
    assert not agent.has_mail


async def test_an_agent_has_its_spawners_user_and_groups(table: ProcessTable) -> None:
    agent = await spawned(table, cred=Credentials(7, 8, groups=frozenset({9})))

    cred = agent.cred
    assert (cred.uid, cred.gid, cred.groups, cred.agent_pid) == (7, 8, frozenset({9}), agent.pid)


# Narrowing at spawn

Loader = Callable[[Credentials, str], Any]


def installed(**fields: Any) -> Loader:
    """Every installed agent is this one."""

    async def load(cred: Credentials, name: str) -> AgentSpec:
        return spec(agent=name, name=name, **fields)

    return load


@pytest.mark.parametrize(
    ("fields", "tools"),
    [
        ({}, TOOLS),
        ({"tools": []}, []),
        ({"tools": "g*"}, ["glob", "grep"]),
        ({"tools": ["*"], "disallowed_tools": ["g*"]}, ["act", "look", "write_file"]),
        ({"disallowed_tools": "act"}, TOOLS[1:]),
        ({"tools": "Read, Write, Grep"}, None),
    ],
)
async def test_tools_are_names_or_globs_less_the_disallowed(
    table: ProcessTable, fields: dict[str, Any], tools: list[str] | None
) -> None:
    if tools is None:
        with pytest.raises(InvalidError, match="no tool 'read_file'"):
            await spawned(table, **fields)
        return

    agent = await spawned(table, **fields)

    assert (list(agent.spec.tools or ()), table.tools_of(agent)) == (tools, tools)


async def test_a_tool_that_is_not_there_names_the_nearest(table: ProcessTable) -> None:
    with pytest.raises(InvalidError, match="did you mean 'grep'"):
        await spawned(table, tools=["gerp"])


async def test_a_child_inherits_its_parents_tools(table: ProcessTable) -> None:
    parent = await spawned(table, tools=["grep", "glob"])
    child = await spawned(table, parent)

    assert table.tools_of(child) == ["glob", "grep"]


async def test_what_a_parent_is_denied_its_descendants_are_too(table: ProcessTable) -> None:
    parent = await spawned(table, disallowed_tools=["act"])
    grandchild = await spawned(table, await spawned(table, parent))

    assert "act" not in table.tools_of(grandchild)


async def test_a_child_that_asks_for_more_is_refused_with_the_list(table: ProcessTable) -> None:
    parent = await spawned(table, tools=["grep"])

    with pytest.raises(NotPermittedError, match="act, write_file"):
        await spawned(table, parent, tools=["grep", "act", "write_file"])
    assert parent.children == set()


async def test_a_child_that_asks_for_more_is_clamped_when_it_says_so(table: ProcessTable) -> None:
    parent = await spawned(table, tools=["grep"])
    child = await spawned(table, parent, tools=["grep", "act"], on_excess="clamp")

    assert table.tools_of(child) == ["grep"]
    assert child.warnings == ("act: narrowed away",)


async def test_what_is_disallowed_in_the_same_spec_is_not_asked_for(table: ProcessTable) -> None:
    parent = await spawned(table, disallowed_tools=["act"])
    child = await spawned(table, parent, tools=["*"], disallowed_tools=["act"])

    assert "act" not in table.tools_of(child)


async def test_an_installed_agents_tools_can_only_be_narrowed(table: ProcessTable) -> None:
    table.load_agent = installed(tools=["grep", "glob"])

    agent = await spawned(table, agent="x", tools=["grep"])

    assert table.tools_of(agent) == ["grep"]
    with pytest.raises(NotPermittedError):
        await spawned(table, agent="x", tools=["act"])


async def test_what_an_installed_agent_is_denied_cannot_be_given_back(table: ProcessTable) -> None:
    table.load_agent = installed(disallowed_tools=["act"])

    agent = await spawned(table, agent="x", disallowed_tools=[])

    assert "act" not in table.tools_of(agent)


async def test_an_installed_agents_unknown_tools_are_a_warning(table: ProcessTable) -> None:
    table.load_agent = installed(tools=["WebFetch", "grep"])

    agent = await spawned(table, agent="x")

    assert table.tools_of(agent) == ["grep"]
    assert agent.warnings == ("WebFetch: no tool of that name here, so the agent goes without it",)


async def test_fields_of_a_spec_override_the_installed_agents(table: ProcessTable) -> None:
    table.load_agent = installed(model="a/b", max_turns=3, instructions="be brief")

    agent = await spawned(table, agent="x", model="c/d")

    found = (agent.spec.model, agent.spec.max_turns, agent.spec.instructions)
    assert found == ("c/d", 3, "be brief")


async def test_an_inherited_model_is_the_parents_or_the_default(table: ProcessTable) -> None:
    parent = await spawned(table, model="a/b")
    child = await spawned(table, parent, model="inherit")
    top = await spawned(table)

    assert (child.spec.model, top.spec.model) == ("a/b", "offline/demo")


async def test_an_inherited_model_is_where_the_parents_is(table: ProcessTable) -> None:
    where = {"api_base": "http://there/v1", "temperature": 1}
    parent = await spawned(table, model="a/b", model_settings=where)
    child = await spawned(table, parent, model="inherit", model_settings={"temperature": 0})
    other = await spawned(table, parent, model="c/d")

    assert child.spec.model_settings == {"api_base": "http://there/v1", "temperature": 0}
    assert other.spec.model_settings == {}


async def test_the_effective_spec_can_be_spawned_again(table: ProcessTable) -> None:
    agent = await spawned(table, name="n", tools="g*", disallowed_tools="glob", labels={"a": "b"})

    again = await spawned(table, **agent.spec.to_dict())

    assert again.spec == agent.spec


@pytest.mark.parametrize("effect", ["deny", "ask", "allow"])
async def test_a_rule_for_a_tool_that_is_not_there_is_refused(
    table: ProcessTable, effect: str
) -> None:
    with pytest.raises(InvalidError, match=r"\$\.rules: no tool 'gre': did you mean 'grep'\?"):
        await spawned(table, rules={effect: ["gl*", "gre(x)"]})
