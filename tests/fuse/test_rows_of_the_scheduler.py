"""The behaviours of the scheduler: tiers, ageing, ratio, shares, admission and eviction."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nexusfs.boot.connect import connect_sync
from nexusfs.contracts.errors import CapacityError
from tests.fuse.conftest import Mounts
from tests.fuse.faces import (
    Face,
    FilesFace,
    PythonFace,
    Refused,
    events,
    refusal,
    rest,
    state,
)
from tests.fuse.shell import pids, until

pytestmark = pytest.mark.fuse

IDLE = {"model": "offline/echo", "mode": "chat"}
ROOM = 4
SMALL = {
    "NEXUSFS_MODEL_SLOTS": "1",
    "NEXUSFS_SLOT_AGEING_S": "1",
    "NEXUSFS_RESIDENT_MAX": str(ROOM),
    "NEXUSFS_QUEUE_MAX": "3",
}
"""One slot, room for four agents, and three of them in the queue."""


@pytest.fixture(scope="module", params=["files", "python"])
def kernel(
    request: pytest.FixtureRequest, mounts: Mounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Face]:
    """A kernel with one slot and little room, by its files and by its system calls."""
    if request.param == "files":
        yield FilesFace(mounts.mount("small", env=SMALL))
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name, value in SMALL.items():
            patch.setenv(name, value)
        connected = connect_sync(tmp_path_factory.mktemp("small") / "store").__enter__()
    yield PythonFace(connected)
    connected.__exit__()


@pytest.fixture
def small(kernel: Face) -> Iterator[Face]:
    """The same, without agents of another test."""
    yield kernel
    for pid in living(kernel):
        kernel.kill(pid)


def living(face: Face) -> list[int]:
    """Agents that have not ended."""
    return [pid for one in ("running", "paused") for pid in face.pids(state=one)]


def holder(face: Face, tmp_path: Path) -> int:
    """An agent that holds the slot for ever."""
    script = tmp_path / "hang"
    script.write_text(json.dumps([{"hang": True}]))
    pid = face.spawn(model=f"offline/script:{script}", task="go", priority="critical")
    until(lambda: waits(face, pid) == "model")
    return pid


def waits(face: Face, pid: int) -> str:
    """What it waits for."""
    return face.text(f"/proc/{pid}/wchan").rstrip("\n")


def waiting(face: Face, tmp_path: Path, **spec: Any) -> int:
    """A new agent that waits for a slot, and needs it for longer than a millisecond."""
    script = tmp_path / "brief"
    script.write_text(json.dumps([{"content": "a b c", "token_delay_s": 0.01}]))
    pid = face.spawn(**{"model": f"offline/script:{script}", "task": "hello", **spec})
    until(lambda: waits(face, pid) == "slot")
    return pid


def sched(face: Face, **fields: Any) -> list[dict[str, Any]]:
    """Lines of sys/sched with these values."""
    rows = [json.loads(line) for line in face.text("/sys/sched").splitlines()]
    return [row for row in rows if fields.items() <= row.items()]


def served(face: Face, pids: list[int]) -> list[int]:
    """The agents in the order in which they got their slots."""
    for pid in pids:
        assert face.wait(pid) == (0, "done")
    return sorted(pids, key=lambda pid: events(face, pid, "model_call")[0]["time"])


# Slots


def test_the_five_tiers_are_served_by_their_number(small: Face, tmp_path: Path) -> None:
    first = holder(small, tmp_path)
    agents = [waiting(small, tmp_path, priority=name) for name in ("low", "high", "best_effort")]

    rows = sched(small, state="waits")
    tiers = [row["class"] for row in sched(small) if "number" in row]
    small.kill(first)

    low, high, best_effort = agents
    assert served(small, agents) == [high, low, best_effort]
    assert [row["pid"] for row in rows] == agents
    assert tiers == ["critical", "high", "normal", "low", "best_effort"]


def test_who_waits_goes_up_a_tier_with_time(small: Face, tmp_path: Path) -> None:
    first = holder(small, tmp_path)
    old = waiting(small, tmp_path, priority="low")
    time.sleep(2.1)  # two classes
    new = waiting(small, tmp_path, priority="normal")

    small.kill(first)

    assert served(small, [new, old]) == [old, new]


def test_a_short_call_goes_before_a_long_one_that_waits_a_little_longer(
    small: Face, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text(json.dumps([{"content": "a b", "token_delay_s": 0.7}, {"content": "more"}]))
    long = rest(small, small.spawn(**{**IDLE, "model": f"offline/script:{slow}", "task": "go"}))
    short = rest(small, small.spawn(**IDLE, task="go"))
    first = holder(small, tmp_path)
    small.send(long, "again")
    until(lambda: waits(small, long) == "slot")
    small.send(short, "again")
    until(lambda: waits(small, short) == "slot")
    time.sleep(0.3)

    small.kill(first)
    until(lambda: all(len(events(small, pid, "model_reply")) == 2 for pid in (long, short)))

    began = {pid: events(small, pid, "model_call")[1]["time"] for pid in (long, short)}
    assert began[short] <= began[long]
    times = [events(small, pid, "model_reply")[1]["time"] for pid in (short, long)]
    assert times == sorted(times)


def test_one_owner_has_ten_slots_and_the_eleventh_agent_waits(
    face: Face, play: Callable[..., int]
) -> None:
    agents = [play({"hang": True}) for _ in range(11)]
    until(lambda: [waits(face, pid) for pid in agents].count("model") == 10)

    (row,) = [row for row in sched(face) if row.get("owner") == os.getuid() and "pid" not in row]
    last = [pid for pid in agents if waits(face, pid) == "slot"]

    assert (row["in_use"], row["waiting"], len(last)) == (10, 1, 1)
    for pid in agents:
        face.kill(pid)


def test_who_has_ended_or_is_paused_gets_no_slot(small: Face, tmp_path: Path) -> None:
    first = holder(small, tmp_path)
    ended, paused, last = [waiting(small, tmp_path) for _ in range(3)]

    small.kill(ended)
    small.signal(paused, "stop")
    rows = [row["pid"] for row in sched(small, state="waits")]
    small.kill(first)

    assert rows == [last]
    assert small.wait(last) == (0, "done")
    assert (state(small, paused), events(small, paused, "model_call")) == ("paused", [])
    small.signal(paused, "cont")
    assert small.wait(paused) == (0, "done")


def test_nice_counts_for_who_waits_already(small: Face, tmp_path: Path) -> None:
    first = holder(small, tmp_path)
    agents = [waiting(small, tmp_path) for _ in range(3)]

    small.signal(agents[0], "nice 19")
    small.kill(first)

    assert served(small, agents)[-1] == agents[0]


# Admission


def test_a_spawn_into_a_full_queue_is_eagain_and_leaves_nothing(
    small: Face, tmp_path: Path
) -> None:
    holder(small, tmp_path)
    for _ in range(3):
        waiting(small, tmp_path, priority="best_effort")
    before = len(small.pids())

    with pytest.raises(Refused) as caught:
        small.spawn(model="offline/echo", task="one more", priority="critical")

    assert caught.value.errno == "EAGAIN"
    assert "queue" in str(caught.value.args[1])
    assert len(small.pids()) == before
    assert sched(small, evicted=0), "somebody made room for an agent that was refused"


# Eviction


def test_the_least_important_makes_room_and_goes_on_when_there_is_some(small: Face) -> None:
    lines = ("low", "best_effort", "normal", "normal")
    agents = [rest(small, small.spawn(**IDLE, priority=name, task="hi")) for name in lines]
    _, lowest, *_ = agents

    new = rest(small, small.spawn(**IDLE, task="hi"))

    status = small.agent(lowest)
    assert (status["state"], status["evicted"]) == ("paused", True)
    assert "goes on by itself" in status["reason"]
    (saved,) = events(small, lowest, "checkpoint")
    assert small.text(f"/home/{status['agent_id']}/checkpoints/{saved['hash']}")
    assert [row["pid"] for row in sched(small, state="evicted")] == [lowest]
    assert [state(small, pid) for pid in agents].count("running") == 3
    assert refusal(lambda: small.signal(lowest, "cont")) == "EAGAIN"
    small.kill(new)
    assert (state(small, lowest), small.agent(lowest)["evicted"]) == ("running", False)
    small.send(lowest, "still there?")
    until(lambda: small.text(f"/proc/{lowest}/stdout").endswith("still there?\n"))


def test_an_immune_agent_never_makes_room(small: Face) -> None:
    immune = small.spawn(**IDLE, priority="best_effort", immune=True)
    low, *_ = [small.spawn(**IDLE, priority="low") for _ in range(ROOM - 1)]

    small.spawn(**IDLE)

    assert state(small, immune) == "running"
    (row,) = sched(small, state="evicted")
    assert row["pid"] >= low


def test_who_is_not_more_important_than_anybody_gets_no_room(small: Face) -> None:
    agents = [small.spawn(**IDLE) for _ in range(ROOM)]

    assert refusal(lambda: small.spawn(**IDLE)) == "EAGAIN"
    assert refusal(lambda: small.spawn(**IDLE, priority="low")) == "EAGAIN"
    assert [state(small, pid) for pid in agents] == ["running"] * ROOM


def test_who_was_evicted_is_so_after_a_restart_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    own = Mounts(tmp_path)
    try:
        face = FilesFace(own.mount(env=SMALL))
        low = rest(face, face.spawn(**IDLE, priority="low", task="hi"))
        others = [rest(face, face.spawn(**IDLE, task="hi")) for _ in range(ROOM)]
        before = face.agent(low)["evicted"]

        own.umount(face.mnt)
        own.mount(env=SMALL)

        assert (before, face.agent(low)["evicted"], state(face, low)) == (True, True, "paused")
        face.kill(others[0])
        assert state(face, low) == "running"
        own.umount(face.mnt)
        own.mount(env={**SMALL, "NEXUSFS_RESIDENT_MAX": "100"})
        assert [state(face, pid) for pid in (low, *others[1:])] == ["running"] * ROOM
        assert pids(face.mnt) >= {low}
    finally:
        own.close()


# Batches: system calls alone have them, since a control file takes one object


@pytest.mark.parametrize("count", [ROOM, ROOM + 1])
def test_a_batch_of_n_starts_at_once_or_not_at_all(small: Face, count: int) -> None:
    if isinstance(small, FilesFace):
        assert refusal(lambda: small.spawn(**IDLE, agents=[IDLE] * count)) == "EINVAL"
        assert len(living(small)) == 0
        return
    assert isinstance(small, PythonFace)

    try:
        started = [info.pid for info in small.kernel.sys_proc_spawn_batch([IDLE] * count)]
    except CapacityError:
        started = []

    assert len(started) == (count if count <= ROOM else 0)
    assert living(small) == started
