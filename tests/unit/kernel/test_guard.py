"""The paths of agents at each file call: what a tool of theirs reaches, whatever the path says."""

import os
from collections.abc import Awaitable, Callable

import pytest

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import AccessError
from nexusfs.contracts.node import RENAME_EXCHANGE, At, Change
from tests.kernel_fixture import ROOT, spawned
from tests.unit.kernel.files import Files, error

GRANTS = [
    {"path": "/work"},
    {"path": "/work/fixed", "access": "r"},
    {"path": "/lib", "access": "r"},
]


@pytest.fixture
async def root(kernel: Kernel) -> Files:
    """A person, who has made what there is."""
    files = Files(kernel.syscalls)
    for directory in ("/work", "/work/sub", "/work/fixed", "/lib", "/secret", "/etc", "/bin"):
        await files.bound.sys_mkdir(directory)
    for path in ("/work/a", "/work/fixed/f", "/lib/l", "/secret/s", "/top", "/etc/rules"):
        await files.put(path, b"text")
    return files


def tool_of(kernel: Kernel, pid: int) -> Files:
    return Files(kernel.syscalls, kernel.processes.get(pid).cred.through("tool"))


@pytest.fixture
async def agent(kernel: Kernel, root: Files) -> Files:
    """Tools of root's agent, which permission bits do not bind."""
    process = await spawned(kernel.processes, mode="chat", paths=GRANTS)
    return tool_of(kernel, process.pid)


@pytest.mark.parametrize(
    ("path", "reads", "writes"),
    [
        ("/work/a", True, True),
        ("/work/fixed/f", True, False),
        ("/lib/l", True, False),
        ("/secret/s", False, False),
        ("/top", False, False),
        ("/work/../secret/s", False, False),
        ("/work/sub/../a", True, True),
        ("//work//a", True, True),
        ("/work/fixed/../a", True, True),
        ("/lib/../work/a", True, True),
    ],
)
async def test_a_tool_reads_and_writes_what_its_agents_paths_grant(
    agent: Files, path: str, reads: bool, writes: bool
) -> None:
    async def may(flags: int) -> bool:
        try:
            await agent.open(path, flags)
        except AccessError:
            return False
        return True

    assert (await may(os.O_RDONLY), await may(os.O_WRONLY)) == (reads, writes)
    assert not (await may(os.O_RDONLY | os.O_TRUNC)) or writes


async def test_a_refusal_says_what_the_agent_has(agent: Files) -> None:
    with pytest.raises(AccessError, match=r"they have /work \(rw\), /work/fixed \(r\), /lib \(r\)"):
        await agent.text("/secret/s")


async def test_what_is_above_a_granted_path_is_seen_and_not_listed(agent: Files) -> None:
    assert (await agent.stat("/")).is_dir and (await agent.stat("/work")).is_dir
    assert await error(agent.names("/")) is AccessError
    assert await error(agent.stat("/secret")) is AccessError
    assert await error(agent.stat("/secret/no-such-name")) is AccessError
    assert await agent.names("/work") == {"a", "sub", "fixed"}


async def test_a_symlink_leads_no_further_than_the_paths(root: Files, agent: Files) -> None:
    await root.bound.sys_symlink(b"/secret", "/work/out")
    await root.bound.sys_symlink(b"/secret/s", "/work/s")
    await root.bound.sys_symlink(b"/work/a", "/secret/back")
    await root.bound.sys_symlink(b"../work/a", "/lib/there")

    assert await error(agent.text("/work/s")) is AccessError
    assert await error(agent.text("/work/out/s")) is AccessError
    assert await error(agent.text("/work/out/back")) is AccessError
    assert await agent.text("/lib/there") == b"text"


async def test_a_file_is_not_made_through_a_symlink_elsewhere(root: Files, agent: Files) -> None:
    await root.bound.sys_symlink(b"/secret/new", "/work/new")

    assert await error(agent.put("/work/new", b"x")) is AccessError
    assert "new" not in await root.names("/secret")


CHANGES: dict[str, Callable[[Files], Awaitable[object]]] = {
    "make a file": lambda f: f.put("/secret/x"),
    "make a directory": lambda f: f.bound.sys_mkdir("/secret/x"),
    "make it at the top": lambda f: f.bound.sys_mkdir("/x"),
    "make a symlink": lambda f: f.bound.sys_symlink(b"a", "/lib/x"),
    "link out": lambda f: f.bound.sys_link("/work/a", "/secret/x"),
    "link in": lambda f: f.bound.sys_link("/secret/s", "/work/x"),
    "link what may only be read": lambda f: f.bound.sys_link("/lib/l", "/work/x"),
    "remove": lambda f: f.bound.sys_unlink("/secret/s"),
    "remove what may only be read": lambda f: f.bound.sys_unlink("/work/fixed/f"),
    "rename out": lambda f: f.bound.sys_rename("/work/a", "/secret/x"),
    "rename in": lambda f: f.bound.sys_rename("/secret/s", "/work/x"),
    "rename over": lambda f: f.bound.sys_rename("/work/a", "/work/fixed/f"),
    "exchange": lambda f: f.bound.sys_rename("/work/a", "/secret/s", RENAME_EXCHANGE),
    "move a rule away": lambda f: f.bound.sys_rename("/work/fixed", "/work/other"),
    "remove the granted path": lambda f: f.bound.sys_rename("/work", "/lib/work"),
    "chmod": lambda f: f.bound.sys_setattr("/lib/l", Change(mode=0o777)),
    "truncate": lambda f: f.bound.sys_setattr("/lib/l", Change(size=0)),
    "set an attribute": lambda f: f.bound.sys_setxattr("/lib/l", b"user.x", b"y"),
    "take an attribute": lambda f: f.bound.sys_removexattr("/lib/l", b"user.x"),
    "read an attribute": lambda f: f.bound.sys_getxattr("/secret/s", b"user.x"),
    "list": lambda f: f.names("/secret"),
    "list with attributes": lambda f: f.bound.list_page("/secret", 0, 9),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_the_paths_do_not_grant_is_refused_to_each_call(
    root: Files, agent: Files, change: str
) -> None:
    before = {path: await root.names(path) for path in ("/", "/work", "/secret", "/lib")}

    assert await error(CHANGES[change](agent)) is AccessError

    assert {path: await root.names(path) for path in before} == before


async def test_access_says_what_the_paths_grant(agent: Files) -> None:
    assert await agent.bound.access("/work/a", os.W_OK)
    assert await agent.bound.access("/lib/l", os.R_OK)
    assert not await agent.bound.access("/lib/l", os.W_OK)


async def test_a_directory_by_its_number_is_checked_by_where_it_is(
    root: Files, agent: Files
) -> None:
    """As Linux asks, which knows names already."""
    secret, _ = await root.bound.sys_lookup("/secret")
    work, _ = await root.bound.sys_lookup("/work")

    assert await error(agent.bound.sys_lookup(At(secret, b"s"))) is AccessError
    assert await error(agent.bound.sys_mkdir(At(secret, b"x"))) is AccessError
    assert (await agent.bound.sys_lookup(At(work, b"a")))[1].size == 4


async def test_who_moves_a_directory_in_takes_it_along(root: Files, agent: Files) -> None:
    handle = await agent.open("/work/a", os.O_RDONLY)
    await root.bound.sys_rename("/work/sub", "/secret/sub")
    await root.bound.sys_rename("/secret", "/work/secret")

    assert await agent.text("/work/secret/s") == b"text"
    await root.bound.sys_rename("/work", "/elsewhere")
    assert await error(agent.text("/elsewhere/a")) is AccessError
    assert await error(agent.calls.sys_read(handle, 4, 0)) is AccessError


async def test_an_open_file_is_cut_with_the_rights(kernel: Kernel, agent: Files) -> None:
    handle = await agent.open("/work/a", os.O_RDWR)
    before = await agent.calls.sys_read(handle, 4, 0)

    await kernel.syscalls.sys_proc_restrict(
        ROOT, agent.cred.agent_pid, {"paths": [{"path": "/work", "access": "r"}]}
    )

    assert (before, await agent.calls.sys_read(handle, 4, 0)) == (b"text", b"text")
    assert await error(agent.calls.sys_write(handle, b"x", 0)) is AccessError


async def test_what_a_person_starts_reads_rules_and_agents_and_changes_neither(
    kernel: Kernel, root: Files
) -> None:
    agent = tool_of(kernel, (await spawned(kernel.processes, mode="chat")).pid)

    assert await agent.text("/etc/rules") == b"text"
    for change in (
        agent.put("/etc/rules", b"mine"),
        agent.put("/bin/new.md", b"---"),
        agent.bound.sys_unlink("/etc/rules"),
        agent.bound.sys_rename("/etc", "/etc2"),
        agent.bound.sys_link("/etc/rules", "/mine"),
    ):
        assert await error(change) is AccessError
    await agent.put("/secret/s", b"more")


async def test_a_grant_through_a_symlink_is_of_what_it_was_at_the_spawn(
    kernel: Kernel, root: Files
) -> None:
    await root.bound.sys_symlink(b"work", "/link")
    process = await spawned(kernel.processes, mode="chat", paths=[{"path": "/link"}])
    agent = tool_of(kernel, process.pid)
    await root.bound.sys_unlink("/link")
    await root.bound.sys_symlink(b"secret", "/link")

    assert await agent.text("/work/a") == b"text"
    assert await error(agent.text("/link/s")) is AccessError


async def test_an_agent_that_is_gone_reaches_nothing(kernel: Kernel, root: Files) -> None:
    gone = Files(kernel.syscalls, Credentials(0, 0, agent_pid=77, door="tool"))

    assert await error(gone.text("/work/a")) is AccessError


async def test_people_are_bound_by_no_paths(root: Files) -> None:
    await root.put("/etc/rules", b"new")

    assert await root.text("/etc/rules") == b"new"
