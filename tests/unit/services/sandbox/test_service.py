"""Which sandbox there is, and what is said where there is none."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio.testing

from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.config import Config
from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    CapacityError,
    NoProcessError,
    NoSandboxError,
    NotFoundError,
    NotPermittedError,
    UnknownToolError,
)
from nexusfs.services.sandbox.callers import UNKNOWN
from nexusfs.services.sandbox.limits import SandboxSettings
from nexusfs.services.sandbox.service import Sandboxes
from tests.kernel_fixture import ROOT, spec

pytestmark = pytest.mark.slow


@asynccontextmanager
async def kernel_with(tmp_path: Path, **config: object) -> AsyncIterator[Kernel]:
    options = BootOptions(tmp_path / "store", Config.model_validate(config), tmp_path / "c.toml")
    async with running_kernel(options) as kernel:
        yield kernel


async def refusal(kernel: Kernel, cred: Credentials = ROOT) -> NoSandboxError:
    with pytest.raises(NoSandboxError) as caught:
        await kernel.syscalls.sys_dispatch(cred, "exec", {"command": "true"})
    assert caught.value.errno == errno.EOPNOTSUPP
    return caught.value


async def test_without_a_mount_a_program_is_refused(tmp_path: Path) -> None:
    async with kernel_with(tmp_path) as kernel:
        assert "nexusfs mount" in str(await refusal(kernel))


async def test_with_the_service_off_a_program_is_refused(tmp_path: Path) -> None:
    async with kernel_with(tmp_path, services_off=["sandbox"]) as kernel:
        assert kernel.services["sandbox"] == "off"
        assert "sys/services" in str(await refusal(kernel))


async def test_where_nothing_holds_it_a_program_is_refused(tmp_path: Path) -> None:
    nothing = {"bubblewrap": False, "landlock": False}
    async with kernel_with(tmp_path, sandbox=nothing) as kernel:
        assert "[sandbox] none = true" in str(await refusal(kernel))
        assert kernel.services["sandbox"].startswith("degraded: programs are not run here")


async def test_a_user_s_mount_runs_no_program_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kernel_with(tmp_path) as kernel:
        monkeypatch.setattr("nexusfs.services.sandbox.service.mount_at", lambda _: "here")
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert kernel.sandboxes is not None
        kernel.sandboxes.mountpoint = "/nowhere"

        assert "only root's mount" in str(await refusal(kernel, Credentials(1001, 1001)))


async def test_a_place_is_free_again_after_a_refusal(tmp_path: Path) -> None:
    settings = {"calls_per_user": 1}
    async with kernel_with(tmp_path, sandbox=settings) as kernel:
        for _ in range(3):
            assert "nexusfs mount" in str(await refusal(kernel))


async def test_all_places_taken_is_eagain(tmp_path: Path) -> None:
    async with kernel_with(tmp_path, sandbox={"calls_per_user": 1}) as kernel:
        sandboxes = kernel.sandboxes
        assert isinstance(sandboxes, Sandboxes)
        with sandboxes._place(ROOT.uid), pytest.raises(CapacityError, match="wait until"):
            await kernel.syscalls.sys_dispatch(ROOT, "exec", {"command": "true"})


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"bubblewrap": False, "landlock": False, "none": True}, "none"),
        ({"bubblewrap": False, "landlock": False}, "off"),
    ],
)
async def test_an_agent_s_status_says_what_holds_its_programs(
    tmp_path: Path, settings: dict[str, bool], kind: str
) -> None:
    async with kernel_with(tmp_path, sandbox=settings) as kernel:
        info = await kernel.syscalls.sys_proc_spawn(ROOT, spec(model="offline/echo", mode="chat"))
        opened = await kernel.syscalls.sys_open(ROOT, f"/proc/{info.pid}/status", 0)

        said = await kernel.syscalls.sys_read(opened.fd, 4096, 0)

        await kernel.syscalls.sys_close(opened.fd)
        assert f"Sandbox:\t{kind}\n".encode() in said


async def test_a_program_of_an_agent_that_goes_on_at_boot_waits_for_the_mount(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    looks = iter([None, None, "here"])
    monkeypatch.setattr("nexusfs.services.sandbox.service.mount_at", lambda _: next(looks))
    sandboxes = Sandboxes(SandboxSettings.model_validate({}), "/mnt/nexus")

    await sandboxes._mounted()

    assert next(looks, "none left") == "none left" and trio.current_time() > 0


async def test_a_caller_who_cannot_be_told_gets_no_door(tmp_path: Path) -> None:
    async with kernel_with(tmp_path) as kernel:
        calls, unknown = kernel.syscalls, Credentials(0, 0, agent_pid=UNKNOWN)
        info = await calls.sys_proc_spawn(ROOT, spec(model="offline/echo", mode="chat"))

        with pytest.raises(UnknownToolError):
            await calls.sys_dispatch(unknown, "list_dir", {"path": "/"})
        with pytest.raises(NoProcessError):
            await calls.sys_proc_spawn(unknown, spec(model="offline/echo", task="hello"))
        with pytest.raises(NotPermittedError):
            await calls.sys_proc_kill(unknown, info.pid)
        with pytest.raises(NotPermittedError):
            await calls.sys_proc_send(unknown, info.pid, "hello")
        with pytest.raises(NotFoundError):
            await calls.sys_readlink(unknown, "/proc/self")
        assert await calls.sys_tools(unknown) == []
