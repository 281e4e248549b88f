"""Programs of /etc/hooks.json: what they get, how they refuse, and who may install them."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import AccessError, KernelError, TimeoutExpiredError
from nexusfs.contracts.node import Change
from nexusfs.services.hook_programs import BESIDE_MAX
from tests.kernel_fixture import ALICE, ROOT
from tests.unit.services.running import World, world

pytestmark = pytest.mark.slow


def program(directory: Path, script: str, name: str = "hook") -> str:
    """An executable of the host; its path."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def install(w: World, *hooks: dict[str, Any], text: bytes | None = None) -> None:
    body = json.dumps({"hooks": hooks}).encode() if text is None else text
    await w.files.write_file("/etc/hooks.json", body)


async def test_a_program_gets_the_context_as_json(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        command = [program(tmp_path, f"cat > {tmp_path}/told"), "strict"]
        await install(w, {"on": "pre_spawn", "command": command})

        await w.play(cred=ALICE, name="bob", mode="chat", metadata={"k": 1})

    told = json.loads((tmp_path / "told").read_text())
    assert (told["point"], told["agent_id"], told["uid"]) == ("pre_spawn", "bob", ALICE.uid)
    assert (told["metadata"], told["spec"]["mode"]) == ({"k": 1}, "chat")


@pytest.mark.parametrize(("status", "number"), [(1, errno.EPERM), (13, errno.EACCES)])
async def test_a_status_other_than_0_refuses_with_that_errno_and_its_sentence(
    tmp_path: Path, status: int, number: int
) -> None:
    async with world(tmp_path) as w:
        script = f"echo noise >&2; echo 'not on a Sunday' >&2; exit {status}"
        await install(w, {"on": "pre_spawn", "command": [program(tmp_path, script)]})

        with pytest.raises(KernelError, match="hook hook: not on a Sunday") as caught:
            await w.play(mode="chat")

        assert caught.value.errno == number
        assert len(w.kernel.processes) == 0


async def test_a_tool_call_is_refused_too_and_its_refusal_audited(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        command = [program(tmp_path, "grep -q write_file && exit 13; exit 0")]
        await install(w, {"on": "pre_dispatch", "command": command})

        await w.calls.sys_dispatch(ROOT, "list_dir", {"path": "/"})
        with pytest.raises(AccessError):
            await w.calls.sys_dispatch(ROOT, "write_file", {"path": "/x", "content": "x"})

        last = json.loads((await w.text("/var/log/audit.jsonl")).splitlines()[-1])
    assert (last["event"], last["op"], last["target"]) == ("refused", "dispatch", "write_file")


async def test_a_post_program_that_fails_is_a_warning(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await install(w, {"on": "post_spawn", "command": [program(tmp_path, "exit 5")]})

        info = await w.calls.sys_proc_spawn(ROOT, {"model": "offline/echo", "mode": "chat"})

    assert info.warnings == ("hook hooks.json: hook hook: status 5",)


async def test_an_end_is_told_beside_the_kernel(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    async with world(tmp_path) as w:
        await install(w, {"on": "post_terminate", "command": [program(tmp_path, f"cat > {told}")]})
        agent = await w.play(mode="chat")
        await w.calls.sys_proc_kill(ROOT, agent.pid, "enough")

        heard = json.loads(await trio.to_thread.run_sync(told.read_text))

    assert (heard["point"], heard["reason"]) == ("post_terminate", "enough")


async def test_a_program_over_its_time_is_killed_with_its_children_and_refuses(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        command = [program(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")]
        await install(w, {"on": "pre_spawn", "command": command, "timeout_s": 0.5})

        with pytest.raises(TimeoutExpiredError):
            await w.play(mode="chat")

    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists():
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        assert time.monotonic() < deadline, "the program's child lives on"


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"hooks": 1}', b'{"hooks": [{"on": "pre_spwan", "command": ["/x"]}]}']
)
async def test_a_file_that_cannot_be_understood_refuses_what_it_could(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as w:
        await install(w, text=text)

        with pytest.raises(AccessError, match=r"/etc/hooks\.json"):
            await w.play(mode="chat")
        await w.calls.sys_unlink(ROOT, "/etc/hooks.json")
        await w.play(mode="chat")


@pytest.mark.parametrize("change", [Change(uid=ALICE.uid), Change(mode=0o666), Change(mode=0o664)])
async def test_a_file_that_others_could_write_is_not_used_and_refuses(
    tmp_path: Path, change: Change
) -> None:
    async with world(tmp_path) as w:
        await install(w, {"on": "pre_spawn", "command": [program(tmp_path, "exit 0")]})
        await w.play(mode="chat")
        await w.calls.sys_setattr(ROOT, "/etc/hooks.json", change)

        with pytest.raises(AccessError, match="writable by nobody else"):
            await w.play(mode="chat")


@pytest.mark.parametrize("harm", ["mode", "owner", "absent"])
async def test_a_program_that_others_could_write_is_not_run(tmp_path: Path, harm: str) -> None:
    path = program(tmp_path, f"touch {tmp_path}/ran")
    if harm == "mode":
        os.chmod(path, 0o777)
    elif harm == "owner":
        os.chown(path, ALICE.uid, 0)
    else:
        os.unlink(path)
    async with world(tmp_path) as w:
        await install(w, {"on": "pre_spawn", "command": [path]})

        with pytest.raises(AccessError, match="hook "):
            await w.play(mode="chat")

    assert not (tmp_path / "ran").exists()


async def test_programs_get_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with world(tmp_path) as w:
        command = [program(tmp_path, f"env > {tmp_path}/env")]
        await install(w, {"on": "pre_spawn", "command": command})
        await w.play(mode="chat")

    assert "sk-secret" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize("wreck", ["x", "interpreter"])
async def test_a_program_that_cannot_be_started_is_eacces_or_a_warning(
    tmp_path: Path, wreck: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(program(tmp_path, "exit 0"))
    if wreck == "x":
        path.chmod(0o644)
    else:
        path.write_text("#!/no/such/interpreter\n")
    async with world(tmp_path) as w:
        agent, other = await w.play(mode="chat"), await w.play(mode="chat")
        hooks = [{"on": on, "command": [str(path)]} for on in ("post_terminate", "pre_spawn")]
        await install(w, *hooks)

        with pytest.raises(AccessError, match="hook hook cannot be started"):
            await w.play(mode="chat")
        await w.calls.sys_proc_kill(ROOT, agent.pid)
        while "post_terminate: hook hook cannot be started" not in caplog.text:
            await trio.sleep(0.01)

        assert other.state == "running"


async def test_a_tree_that_ends_at_once_is_told_by_few_processes_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"echo + >> {log}; sleep 0.05; echo - >> {log}"
    async with world(tmp_path) as w:
        await install(w, {"on": "post_terminate", "command": [program(tmp_path, script)]})
        agents = [await w.play(mode="chat") for _ in range(3 * BESIDE_MAX)]
        for agent in agents:
            await w.calls.sys_proc_kill(ROOT, agent.pid)
        with trio.fail_after(30):
            while not log.exists() or log.read_text().count("-") < len(agents):
                await trio.sleep(0.01)

    running, most = 0, 0
    for mark in log.read_text().split():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert most <= BESIDE_MAX


@pytest.mark.parametrize("when", ["after the first read", "before any read"])
async def test_calls_that_overlap_the_reading_of_the_file_are_refused_too(
    tmp_path: Path, when: str
) -> None:
    async with world(tmp_path) as w:
        if when == "after the first read":
            await w.play(mode="chat")
        await install(w, {"on": "pre_spawn", "command": [program(tmp_path, "exit 13")]})
        refused = 0

        async def spawn() -> None:
            nonlocal refused
            try:
                await w.calls.sys_proc_spawn(ROOT, {"model": "offline/echo", "mode": "chat"})
            except AccessError:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(spawn)

    assert refused == 5


async def test_a_read_that_is_cancelled_leaves_the_file_to_be_read(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await install(w, {"on": "pre_spawn", "command": [program(tmp_path, "exit 13")]})
        with trio.CancelScope() as scope:
            scope.cancel()
            await w.play(mode="chat")

        with pytest.raises(AccessError):
            await w.play(mode="chat")


async def test_a_file_that_cannot_be_used_is_a_degraded_service_until_it_can(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await install(w, text=b'{"hooks": ')
        with pytest.raises(AccessError):
            await w.play(mode="chat")
        broken = await w.files.read_file("/sys/services/hooks")

        await install(w)
        await w.play(mode="chat")
        mended = await w.files.read_file("/sys/services/hooks")

    assert broken.startswith(b"degraded: ") and b"/etc/hooks.json" in broken
    assert mended == b"running\n"
