"""An agent sees no agent of another zone, also where Linux knows the number of its files."""

from pathlib import Path

import pytest

from nexusfs.contracts.errors import NotFoundError
from nexusfs.contracts.node import At
from nexusfs.kernel.bound import BoundSyscalls
from tests.kernel_fixture import ALICE
from tests.unit.services.running import world

FILES = ("status", "messages.jsonl", "wait", "ctl", "limits/tokens", "dispatch/list_dir")
DIRS = ("", "/limits", "/approvals", "/dispatch")


@pytest.mark.parametrize("door", ["tool", "fuse"])
async def test_a_node_that_a_person_reached_is_not_there_for_an_agent_of_another_zone(
    tmp_path: Path, door: str
) -> None:
    async with world(tmp_path) as w:
        target = await w.play(cred=ALICE, name="vic", zone="b", mode="chat")
        stranger = await w.play(cred=ALICE, name="mal", zone="a", mode="chat")
        friend = await w.play(cred=ALICE, name="pal", zone="b", mode="chat")
        home = f"/proc/{target.pid}"

        async def reached(path: str) -> list[str]:
            """Calls that tell an agent anything of a node, of which only the number is given."""
            node = await w.calls.vfs.walker.node(ALICE, path, follow=False)
            found = []
            for who in (stranger, friend):
                mine = BoundSyscalls(w.calls, who.cred.through(door))
                try:
                    st = await mine.sys_stat(node)
                    if st.is_dir:
                        await mine.sys_readdir(node)
                    elif st.is_link:
                        await mine.sys_readlink(node)
                    else:
                        opened = await mine.sys_open(node, 1 if path.endswith("ctl") else 0)
                        await mine.sys_close(opened.fd)
                except NotFoundError:
                    continue
                found.append(who.agent_id)
            return found

        for name in FILES:
            assert await reached(f"{home}/{name}") == ["pal"], name
        for name in DIRS:
            assert await reached(home + name) == ["pal"], name
        assert await reached(f"{home}/cwd") == ["pal"]
        directory = At(await w.calls.vfs.walker.node(ALICE, home), b"status")
        with pytest.raises(NotFoundError):
            await BoundSyscalls(w.calls, stranger.cred.through(door)).sys_stat(directory)
