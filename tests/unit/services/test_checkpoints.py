"""Checkpoints: content-addressed files, an index, and processes that go on from them."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.contracts.checkpoint import READERS, Snapshot, decoded, encoded, hash_of
from nexusfs.contracts.errors import (
    BusyError,
    CorruptError,
    KernelError,
    NoSpaceError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
)
from nexusfs.services.checkpoints import AUTOMATIC_KEPT
from tests.kernel_fixture import ALICE, BOB, ROOT, check_history, says, until, wants, wish
from tests.unit.services.running import World, call, events, happened, world

TALK = [
    {"role": "user", "content": "grüße \u6f22 \U0001f600"},
    wants(wish("a", "grep", pattern="x", nested={"deep": [1, None, {"k": [True]}]}), text="é"),
    {"role": "tool", "tool_call_id": "a", "name": "grep", "content": "found\n"},
    says("done"),
]


def snapshot(**fields: Any) -> Snapshot:
    values: dict[str, Any] = {
        "agent_id": "bob", "pid": 7, "zone": "default", "spec": {"name": "bob"}, "turns": 1,
        "rounds": 1, "kept_from": 0, "summary": "", "transcript": TALK, "mail": ["later"],
    }  # fmt: skip
    return Snapshot(**{**values, **fields})


# The format


def test_the_same_state_has_the_same_hash_and_another_has_another() -> None:
    assert hash_of(encoded(snapshot())) == hash_of(encoded(snapshot()))
    assert hash_of(encoded(snapshot())) != hash_of(encoded(snapshot(turns=2)))


def test_nested_data_and_unicode_come_back_as_they_were() -> None:
    assert decoded(encoded(snapshot())) == snapshot()


def test_a_hundred_messages_come_back_as_they_were() -> None:
    many = snapshot(transcript=TALK * 25)

    assert decoded(encoded(many)) == many


def test_there_is_a_reader_for_every_version_up_to_this_one() -> None:
    body = json.loads(encoded(snapshot()))

    assert sorted(READERS) == list(range(1, body["version"] + 1))


def test_a_checkpoint_of_version_1_is_read_for_good() -> None:
    written = (
        b'{"agent_id":"bob","format":"nexusfs-checkpoint","kept_from":0,"mail":[],"pid":2,'
        b'"rounds":0,"spec":{},"summary":"","transcript":[{"content":"hi","role":"user"}],'
        b'"turns":0,"version":1,"zone":"default"}\n'
    )

    assert decoded(written).transcript == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 99}, UnavailableError),
        ({"version": "x"}, CorruptError),
        ({"format": "other"}, CorruptError),
        ({"transcript": None, "version": 1}, None),
    ],
)
def test_what_cannot_be_read_says_so(change: dict[str, Any], error: type[KernelError]) -> None:
    body = {**json.loads(encoded(snapshot())), **change}
    if error is None:
        del body["transcript"]
        error = CorruptError

    with pytest.raises(error):
        decoded(json.dumps(body).encode())


# The files


async def chat(w: World, name: str = "bob", **fields: Any) -> Any:
    """A chat agent of ALICE that has said something."""
    agent = await w.play(cred=ALICE, name=name, mode="chat", **{"task": "hello", **fields})
    await until(lambda: agent.wchan == "message")
    return agent


async def test_a_checkpoint_pauses_and_its_file_is_named_by_its_content(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)

        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        data = await w.files.read_file(f"/home/bob/checkpoints/{info.checkpoint_hash}")
        assert agent.state == "paused"
        assert hash_of(data) == info.checkpoint_hash
        assert (info.agent_id, info.pid, info.turn_count, info.size_bytes) == (
            "bob", agent.pid, 0, len(data),
        )  # fmt: skip
        assert [e["hash"] for e in events(agent, "checkpoint")] == [info.checkpoint_hash]


async def test_the_same_state_is_one_file(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        first = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        second = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        assert first.checkpoint_hash == second.checkpoint_hash
        assert len(await w.calls.sys_checkpoint_list(ALICE, "bob")) == 1


async def test_the_list_is_newest_first_with_a_limit_and_apart_per_agent(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent, other = await chat(w), await chat(w, "other")
        await w.calls.sys_proc_checkpoint(ALICE, other.pid)
        made = []
        for number in range(3):
            agent.post(f"more {number}", "stdin")
            made.append((await w.calls.sys_proc_checkpoint(ALICE, agent.pid)).checkpoint_hash)

        found = await w.calls.sys_checkpoint_list(ALICE, "bob")
        few = await w.calls.sys_checkpoint_list(ALICE, "bob", 2)
        index = json.loads(await w.text("/home/bob/checkpoints/index.json"))

    assert [info.checkpoint_hash for info in found] == made[::-1]
    assert few == found[:2]
    assert [row["checkpoint_hash"] for row in index] == made[::-1]


async def test_ten_at_once_are_all_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agents = [await chat(w, task=f"task {number}") for number in range(10)]
        async with trio.open_nursery() as nursery:
            for agent in agents:
                nursery.start_soon(w.calls.sys_proc_checkpoint, ALICE, agent.pid)

        found = await w.calls.sys_checkpoint_list(ALICE, "bob")
        index = json.loads(await w.text("/home/bob/checkpoints/index.json"))

    assert len(found) == len(index) == 10


async def test_delete_says_whether_there_was_one_and_it_cannot_be_restored(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        first = await w.calls.sys_checkpoint_delete(ALICE, "bob", info.checkpoint_hash)
        second = await w.calls.sys_checkpoint_delete(ALICE, "bob", info.checkpoint_hash)

        assert (first, second) == (True, False)
        assert await w.calls.sys_checkpoint_list(ALICE, "bob") == []
        with pytest.raises(NotFoundError):
            await w.calls.sys_proc_spawn(ALICE, {"restore": info.checkpoint_hash})


async def test_an_index_that_people_broke_or_removed_loses_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        for wreck in (b"{", b"[1]", b"[]"):
            await w.files.write_file("/home/bob/checkpoints/index.json", wreck)

            found = await w.calls.sys_checkpoint_list(ALICE, "bob")

            assert [one.checkpoint_hash for one in found] == [info.checkpoint_hash]


async def test_automatic_checkpoints_come_each_turn_and_old_ones_go(tmp_path: Path) -> None:
    turns = [call("list_dir", path="/") for _ in range(AUTOMATIC_KEPT + 3)]
    async with world(tmp_path) as w:
        agent = await w.play(*turns, {"content": "end"}, name="bob", checkpoint="turn")
        await w.end_of(agent)

        found = await w.calls.sys_checkpoint_list(ROOT, "bob")

    assert [info.turn_count for info in found][:2] == [13, 13]  # the last turn, and the answer
    assert len(found) == AUTOMATIC_KEPT
    assert len(events(agent, "checkpoint")) == len(turns) + 1


async def test_automatic_checkpoints_come_each_tool_call_too(tmp_path: Path) -> None:
    two = {"tool_calls": [call("write_file", path=f"/f{n}", content="x")["tool_calls"][0]
                          for n in range(2)]}  # fmt: skip
    async with world(tmp_path) as w:
        agent = await w.play(two, {"content": "end"}, name="bob", checkpoint="tool")
        await w.end_of(agent)

        assert len(events(agent, "checkpoint")) == 2


async def test_a_checkpoint_that_cannot_be_written_lets_the_agent_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)

        async def full(*_: Any, **__: Any) -> None:
            raise NoSpaceError("no space")

        monkeypatch.setattr(w.kernel.processes.checkpoints, "save", full)
        with pytest.raises(NoSpaceError):
            await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        assert agent.state == "running"
        assert len(events(agent, "checkpoint_failed")) == 1


# Restoring


async def restored(w: World, checkpoint_hash: str, **fields: Any) -> Any:
    info = await w.calls.sys_proc_spawn(ALICE, {"restore": checkpoint_hash, **fields})
    return w.process(info.pid)


async def test_a_restored_agent_is_a_new_process_with_the_same_turns_and_talk(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        model = w.script(call("list_dir", path="/"), {"content": "one"}, {"content": "two"})
        agent = await w.play(name="bob", cred=ROOT, mode="chat", model=model)
        await happened(agent, "model_reply", 2)
        info = await w.calls.sys_proc_checkpoint(ROOT, agent.pid)

        again = w.process(
            (await w.calls.sys_proc_spawn(ROOT, {"restore": info.checkpoint_hash})).pid
        )
        same = list(again.transcript) == list(agent.transcript)
        await w.calls.sys_proc_send(ROOT, again.pid, "and now?")
        await happened(again, "model_reply")
        said = again.transcript[-1]["content"]

    assert same and again.pid != agent.pid and said == "two"
    assert (again.agent_id, again.turns, again.state) == ("bob", 1, "running")
    assert agent.transcript[-1]["content"] == "one"


async def test_a_restored_agent_survives_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        again = await restored(w, info.checkpoint_hash)
        before = list(again.transcript)

    async with world(tmp_path) as w:
        late = await restored(w, info.checkpoint_hash)

        assert w.process(again.pid).transcript == before == late.transcript


async def test_a_checkpoint_is_good_on_another_store_by_copying_its_file(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        data = await w.files.read_file(f"/home/bob/checkpoints/{info.checkpoint_hash}")

    async with world(tmp_path, "other") as w:
        await w.files.make_dirs("/home/guest/checkpoints")
        await w.files.write_file(f"/home/guest/checkpoints/{info.checkpoint_hash}", data)

        again = await restored(w, info.checkpoint_hash)
        (listed,) = await w.calls.sys_checkpoint_list(ROOT, "guest")

    assert [m["content"] for m in again.transcript] == ["hello", "hello"]
    assert (again.agent_id, listed.pid) == ("bob", agent.pid)


async def test_an_unknown_hash_is_enoent_and_says_where_to_look(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(NotFoundError, match=r"index\.json"):
            await restored(w, "0" * 64)


async def test_a_changed_checkpoint_is_eio_and_named(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        path = f"/home/bob/checkpoints/{info.checkpoint_hash}"
        await w.files.write_file(path, b" ", append=True)

        with pytest.raises(CorruptError, match=path) as caught:
            await restored(w, info.checkpoint_hash)
        assert caught.value.errno == errno.EIO


async def test_another_users_checkpoint_is_not_there(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        with pytest.raises(NotFoundError):
            await w.calls.sys_proc_spawn(BOB, {"restore": info.checkpoint_hash})


async def test_an_agent_of_another_zone_does_not_see_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w, zone="lab")
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        stranger = await chat(w, "stranger", zone="field")

        with pytest.raises(NotFoundError, match="field"):
            await w.calls.sys_proc_spawn(stranger.cred, {"restore": info.checkpoint_hash})


async def test_an_agent_lists_and_deletes_checkpoints_of_its_own_zone_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w, zone="lab")
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        stranger, friend = await chat(w, "stranger"), await chat(w, "friend", zone="lab")

        for _ in range(2):
            assert await w.calls.sys_checkpoint_list(stranger.cred, "bob") == []
            assert not await w.calls.sys_checkpoint_delete(
                stranger.cred, "bob", info.checkpoint_hash
            )
            (found,) = await w.calls.sys_checkpoint_list(friend.cred, "bob")
            assert found.checkpoint_hash == info.checkpoint_hash
            await w.files.write_file("/home/bob/checkpoints/index.json", b"[]")
        assert await w.calls.sys_checkpoint_delete(friend.cred, "bob", info.checkpoint_hash)


async def test_what_others_have_in_their_homes_keeps_nobody_from_restoring(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        await w.files.write_file("/home/a-file", b"x")
        await w.files.make_dirs("/home/aaa/checkpoints")
        await w.files.write_file(f"/home/aaa/checkpoints/{info.checkpoint_hash}", b"garbage")
        await w.files.make_dirs(f"/home/aab/checkpoints/{info.checkpoint_hash}")

        again = await restored(w, info.checkpoint_hash)

    assert again.transcript == agent.transcript


@pytest.mark.parametrize("change", [{"created_at": 5}, {"turn_count": "x"}, {"automatic": "no"}])
async def test_an_index_with_a_value_of_another_type_is_none(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        rows = json.loads(await w.text("/home/bob/checkpoints/index.json"))
        body = json.dumps([{**rows[0], **change}]).encode()
        await w.files.write_file("/home/bob/checkpoints/index.json", body)
        agent.post("more", "stdin")

        await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        assert len(await w.calls.sys_checkpoint_list(ALICE, "bob")) == 2


async def test_a_clock_that_was_put_back_costs_no_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        for number in range(AUTOMATIC_KEPT + 1):
            agent.post(f"more {number}", "stdin")
            await w.calls.sys_proc_checkpoint(agent.cred, agent.pid, automatic=True)
        monkeypatch.setattr("nexusfs.services.checkpoints.time.time_ns", lambda: 10**18)
        made = []
        for number in range(3):
            agent.post(f"late {number}", "stdin")
            info = await w.calls.sys_proc_checkpoint(agent.cred, agent.pid, automatic=True)
            made.append(info.checkpoint_hash)

        found = await w.calls.sys_checkpoint_list(ALICE, "bob")

    assert [info.checkpoint_hash for info in found][:3] == made[::-1]
    assert len(found) == AUTOMATIC_KEPT


async def test_restoring_gives_no_more_tools_than_the_parent_has(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        parent = await chat(w, "parent", tools=["grep"])

        child = await w.calls.sys_proc_spawn(parent.cred, {"restore": info.checkpoint_hash})

        assert w.process(child.pid).spec.tools == ("grep",)


async def test_calls_that_were_open_are_answered_in_the_restored_process(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        agent.record("input", message={"role": "user", "content": "do it"})
        used = {"input_tokens": 1, "output_tokens": 1, "cost_usd": 0.0}
        agent.record("model_reply", message=wants(wish("a", "write_file")), usage=used)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        again = await restored(w, info.checkpoint_hash)

    check_history(again.transcript)
    (told,) = [m["content"] for m in again.transcript if m["role"] == "tool"]
    assert "the checkpoint was written before this call was done" in told


async def test_such_answers_are_journaled_with_the_spawn_so_no_crash_comes_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        agent.record("input", message={"role": "user", "content": "do it"})
        used = {"input_tokens": 1, "output_tokens": 1, "cost_usd": 0.0}
        agent.record("model_reply", message=wants(wish("a", "write_file")), usage=used)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        lines: list[bytes] = []
        monkeypatch.setattr(w.kernel.backing.journal, "append", lambda _, line: lines.append(line))

        await restored(w, info.checkpoint_hash, mode="chat")

    first = json.loads(lines[0])
    check_history(first["restored"]["transcript"])
    assert first["restored"]["transcript"][-1]["tool_call_id"] == "a"


async def test_an_ended_restored_agent_says_everything_once_after_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)
        again = await restored(w, info.checkpoint_hash, task="and this", mode="oneshot")
        await w.end_of(again)
        names = [f"/proc/{again.pid}/{name}" for name in ("messages.jsonl", "stdout", "status")]
        before = [await w.text(name) for name in names]

    async with world(tmp_path) as w:
        assert [await w.text(name) for name in names] == before


async def test_a_hand_made_checkpoint_that_is_no_history_is_eio_and_spawns_nothing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        good = await chat(w)
        call = {"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}
        for bad in ({"transcript": [call]}, {"spec": {"model": 5}}, {"agent_id": "../etc/x"}):
            body = {**json.loads(encoded(snapshot())), **bad}
            data = json.dumps(body).encode()
            await w.files.make_dirs("/home/bob/checkpoints")
            await w.files.write_file(f"/home/bob/checkpoints/{hash_of(data)}", data)

            with pytest.raises(CorruptError):
                await w.calls.sys_proc_spawn(ROOT, {"restore": hash_of(data)})

        assert len(w.kernel.processes) == 1

    async with world(tmp_path) as w:
        assert w.process(good.pid).state == "running"


async def test_other_fields_override_what_the_checkpoint_holds(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w, labels={"a": "b"})
        info = await w.calls.sys_proc_checkpoint(ALICE, agent.pid)

        again = await restored(w, info.checkpoint_hash, task="and this", mode="oneshot")
        status = await w.end_of(again)

    assert (status.exit_code, again.result, again.spec.labels) == (0, "and this", {"a": "b"})


@pytest.mark.parametrize(("verb", "error"), [("kill", BusyError), ("nobody", NotPermittedError)])
async def test_a_checkpoint_of_an_ended_agent_is_ebusy_and_of_anothers_eperm(
    tmp_path: Path, verb: str, error: type[KernelError]
) -> None:
    async with world(tmp_path) as w:
        agent = await chat(w)
        if verb == "kill":
            await w.calls.sys_proc_kill(ALICE, agent.pid)

        with pytest.raises(error):
            await w.calls.sys_proc_checkpoint(ALICE if verb == "kill" else BOB, agent.pid)
