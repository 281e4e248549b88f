"""The audit log: what is in it, who can change it, and how a change shows."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nexusfs.contracts.audit import first_fault
from nexusfs.contracts.errors import (
    AccessError,
    CorruptError,
    ExistsError,
    KernelError,
    NoSpaceError,
    NotEmptyError,
    NotPermittedError,
)
from nexusfs.contracts.node import Change
from nexusfs.drivers.audit_local import TAIL_BYTES, LocalAuditLog
from nexusfs.kernel.bound import BoundSyscalls
from tests.kernel_fixture import ALICE, BOB, ROOT
from tests.unit.services.running import World, call, world

PATH = "/var/log/audit.jsonl"


async def rows(w: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await w.files.read_file(PATH)).splitlines()]


# The file on disk


@pytest.fixture
def log(tmp_path: Path) -> LocalAuditLog:
    return LocalAuditLog(tmp_path / "audit.jsonl")


def lines(log: LocalAuditLog) -> list[bytes]:
    return log.read(log.size_bytes, 0).splitlines()


def test_a_log_that_nobody_touched_has_no_fault(log: LocalAuditLog) -> None:
    for number in range(5):
        log.append({"event": "x", "n": number, "odd": "a\ud800b"})

    assert first_fault(lines(log)) is None


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("harm", ["change", "drop", "twice"])
def test_a_line_that_was_changed_dropped_or_doubled_shows(
    log: LocalAuditLog, number: int, harm: str
) -> None:
    for n in range(5):
        log.append({"event": "x", "n": n})
    harmed = lines(log)
    if harm == "change":
        harmed[number] = harmed[number].replace(b'"x"', b'"y"')
    elif harm == "drop":
        del harmed[number]
    else:
        harmed.insert(number, harmed[number])

    assert first_fault(harmed) is not None


def test_what_is_no_line_of_a_log_shows(log: LocalAuditLog) -> None:
    log.append({"event": "x"})

    assert "line 2 is no line" in str(first_fault([*lines(log), b"{}"]))


@pytest.mark.parametrize("size", [10, TAIL_BYTES * 3])
def test_the_chain_goes_on_after_a_reopen(tmp_path: Path, size: int) -> None:
    for _ in range(3):
        LocalAuditLog(tmp_path / "audit.jsonl").append({"event": "x" * size})

    again = LocalAuditLog(tmp_path / "audit.jsonl")

    assert first_fault(lines(again)) is None
    assert len(lines(again)) == 3


def test_half_a_line_that_a_power_cut_left_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    LocalAuditLog(path).append({"event": "whole"})
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "eve')

    again = LocalAuditLog(path)
    again.append({"event": "next"})

    assert [json.loads(line)["event"] for line in lines(again)] == ["whole", "next"]
    assert first_fault(lines(again)) is None


def test_a_file_that_is_no_audit_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_text("hello\n")

    with pytest.raises(CorruptError):
        LocalAuditLog(tmp_path / "audit.jsonl")


# What is in it


async def test_a_life_and_its_calls_have_a_line_each_with_who_and_why(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        turns = (call("list_dir", path="/bin"), {"content": "end"})
        agent = await w.play(*turns, name="bob", zone="lab")
        await w.end_of(agent)
        found = await rows(w)

    who = {"agent": "bob", "zone": "lab", "pid": agent.pid, "parent": 1, "uid": 0}
    assert [row["event"] for row in found] == ["spawn", "spawned", "dispatch", "dispatched", "end"]
    for row in found[1:]:
        assert {key: row[key] for key in who} == who
    assert (found[0]["pid"], found[0]["model"]) == (0, agent.spec.model)
    assert (found[2]["tool"], found[2]["arguments"]) == ("list_dir", {"path": "/bin"})
    assert (found[3]["call_id"], found[3]["error"]) == (found[2]["call_id"], None)
    assert (found[4]["exit_code"], found[4]["reason"]) == (0, "done")


async def test_a_persons_calls_and_refusals_are_in_it_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.play(cred=ALICE, mode="chat")
        await w.calls.sys_dispatch(BOB, "list_dir", {"path": "/"})
        with pytest.raises(NotPermittedError):
            await w.calls.sys_proc_kill(BOB, agent.pid)
        found = await rows(w)

    assert [(row["event"], row["uid"]) for row in found[2:]] == [
        ("dispatch", BOB.uid), ("dispatched", BOB.uid), ("refused", BOB.uid),
    ]  # fmt: skip
    assert (found[-1]["op"], found[-1]["target"]) == ("kill", str(agent.pid))


async def test_an_intent_comes_before_its_effect(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.calls.sys_dispatch(ROOT, "read_file", {"path": PATH})
        seen = (await w.calls.sys_dispatch(ROOT, "read_file", {"path": PATH})).output

    assert str(seen).count('"dispatch"') == 2 and str(seen).count('"dispatched"') == 1


async def test_an_effect_whose_intent_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LocalAuditLog, event: dict[str, Any]) -> None:
        raise NoSpaceError("the audit log: no space")

    async with world(tmp_path) as w:
        monkeypatch.setattr(LocalAuditLog, "append", full)
        with pytest.raises(NoSpaceError):
            await w.play(mode="chat")
        with pytest.raises(NoSpaceError):
            await w.calls.sys_dispatch(ROOT, "write_file", {"path": "/x", "content": "x"})

        assert len(w.kernel.processes) == 0
        with pytest.raises(KernelError):
            await w.files.stat("/x")


async def test_the_log_goes_on_over_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        async with world(tmp_path) as w:
            await w.end_of(await w.play())

    async with world(tmp_path) as w:
        found = await w.files.read_file(PATH)

    assert first_fault(found.splitlines()) is None
    assert found.count(b'"end"') == 2


# Who may


async def test_nobody_writes_it_not_even_root(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC):
            with pytest.raises(NotPermittedError):
                await w.calls.sys_open(ROOT, PATH, flags)
        for change in (Change(size=0), Change(mode=0o666), Change(uid=7), Change(mtime_ns=0)):
            with pytest.raises(NotPermittedError):
                await w.calls.sys_setattr(ROOT, PATH, change)


async def test_its_name_stays_and_nothing_takes_its_place(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.files.write_file("/var/log/other", b"x")
        with pytest.raises(NotPermittedError):
            await w.calls.sys_unlink(ROOT, PATH)
        with pytest.raises(NotPermittedError):
            await w.calls.sys_rename(ROOT, PATH, "/var/log/gone")
        with pytest.raises(NotPermittedError):
            await w.calls.sys_rename(ROOT, "/var/log/other", PATH)
        with pytest.raises(NotPermittedError):
            await w.calls.sys_link(ROOT, PATH, "/var/log/link")
        with pytest.raises(ExistsError):
            await w.calls.sys_mknod(ROOT, PATH, 0o100644)
        with pytest.raises(NotEmptyError):
            await w.calls.sys_unlink(ROOT, "/var/log/other")
            await w.calls.sys_rmdir(ROOT, "/var/log")


async def test_others_do_not_read_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(AccessError):
            await BoundSyscalls(w.calls, BOB).read_file(PATH)


async def test_it_grows_under_an_open_handle_and_its_size_is_true(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        opened = await w.calls.sys_open(ROOT, PATH, os.O_RDONLY)
        before = (await w.files.stat(PATH)).size
        await w.calls.sys_dispatch(ROOT, "list_dir", {"path": "/"})

        size = (await w.files.stat(PATH)).size
        grown = await w.calls.sys_read(opened.fd, 1 << 20, before)
        await w.calls.sys_close(opened.fd)

    assert size == before + len(grown) > before
    assert grown.endswith(b"\n")
