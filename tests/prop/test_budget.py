"""Random trees of agents with random limits, run side by side by a scripted model."""

import itertools
from typing import Any

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusfs.contracts.errors import QuotaError
from nexusfs.contracts.model import ModelCall, ModelObserver, ModelReply, Quote, Usage
from nexusfs.kernel.proc.budget import Account
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.services.agent.program import AgentProgram
from tests.kernel_fixture import (
    BareDispatcher,
    MemoryJournal,
    Workshop,
    says,
    spawned,
    wants,
    wish,
)

PRICE = 1e-4
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "turns": st.integers(0, 6),
        "tool_calls": st.integers(0, 6),
        "tokens": st.integers(0, 3000),
        "cost_usd": st.floats(0, 0.3),
        "children": st.integers(0, 4),
        "depth": st.integers(0, 3),
    },
)
AGENTS = st.lists(
    st.tuples(st.integers(0, 5), LIMITS, st.lists(st.integers(1, 3), max_size=4)),
    min_size=1,
    max_size=7,
)
REPLIES = st.lists(
    st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(0, 30)),
    min_size=1,
    max_size=8,
)
"""(tokens of the prompt that the provider counts, of the answer, tenths of a second)."""


class Model:
    """Wants tools as the agent's metadata says; what it uses may be over what was reserved."""

    def __init__(self, replies: list[tuple[int, int, int]]) -> None:
        self.table: ProcessTable | None = None
        self.replies = itertools.cycle(replies)
        self.excess: dict[int, int] = {}
        self.calls = 0

    async def quote(self, call: ModelCall) -> Quote:
        await trio.sleep(0.01)
        return Quote(call.model, 100, PRICE, PRICE)

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        assert self.table is not None
        process = self.table.get(int(call.conversation))
        check_admitted(process)
        self.calls += 1
        prompt, answer, tenths = next(self.replies)
        await trio.sleep(tenths / 10)
        room = 110 + call.settings["max_tokens"]
        for one in process.account.chain():
            over = max(prompt + answer - room, 0)
            self.excess[one.pid] = self.excess.get(one.pid, 0) + over
        rounds = process.spec.metadata["rounds"]
        usage = Usage(prompt, answer, (prompt + answer) * PRICE)
        if process.rounds < len(rounds) and call.tools:
            calls = [wish(f"{process.rounds}-{n}", "act") for n in range(rounds[process.rounds])]
            return ModelReply(wants(*calls), usage, call.model)
        return ModelReply(says("done"), usage, call.model)

    def available(self) -> list[dict[str, Any]]:
        return []


def check_admitted(process: Process) -> None:
    """No limit above a call that is made is reached, and all that is reserved has room."""
    for one in process.account.chain():
        for name in ("tokens", "cost_usd"):
            if name in one.ceilings:
                assert one.amount(name) < one.ceilings[name]
                assert one.taken(name) <= one.ceilings[name] + 1e-9
        for name in ("turns", "tool_calls"):
            if name in one.ceilings and not process.closing:
                assert one.amount(name) < one.ceilings[name]
                assert one.taken(name) <= one.ceilings[name]


def check_within(account: Account, model: Model) -> None:
    """What was used is within each ceiling, but for what the provider said too much."""
    for one in account.chain():
        over = model.excess.get(one.pid, 0)
        for name, ceiling in one.ceilings.items():
            allowed = {"tokens": over, "cost_usd": over * PRICE + 1e-9}.get(name, 0)
            assert one.amount(name) <= ceiling + allowed, name
        assert not one.held or not any(one.held.values())


async def run_tree(
    agents: list[tuple[int, dict[str, Any], list[int]]], replies: list[tuple[int, int, int]]
) -> tuple[ProcessTable, list[Process], Model, MemoryJournal]:
    """Spawns the agents, each below one before it, while those already run; until all end."""
    shop, model, journal = Workshop(), Model(replies), MemoryJournal()
    dispatcher = BareDispatcher(*shop.tools)
    table = ProcessTable(journal, dispatcher.table.all_names)
    dispatcher.table.admit = table.admit_tool
    model.table, table.program = table, AgentProgram(model, dispatcher)
    made: list[Process] = []
    async with trio.open_nursery() as nursery:
        table.start(nursery)
        for number, (above, limits, rounds) in enumerate(agents):
            living = [one for one in made if not one.state.ended]
            parent = living[above % len(living)] if living and number else None
            try:
                one = await spawned(
                    table, parent, model="a/b", task="go", limits=limits, on_excess="clamp",
                    life="detached" if number % 3 == 2 else "owned", metadata={"rounds": rounds},
                )  # fmt: skip
            except QuotaError:
                continue
            made.append(one)
            for account in one.account.chain():
                assert account.living <= account.ceilings.get("children", account.living)
            for level, account in enumerate(one.account.chain()):
                assert level <= account.ceilings.get("depth", level)
            await trio.sleep(0.5)
    return table, made, model, journal


@settings(max_examples=100, deadline=None)
@given(agents=AGENTS, replies=REPLIES)
def test_no_tree_admits_a_call_once_a_limit_above_it_is_reached(
    agents: list[tuple[int, dict[str, Any], list[int]]], replies: list[tuple[int, int, int]]
) -> None:
    async def main() -> None:
        _, made, model, journal = await run_tree(agents, replies)
        assert all(one.state.ended for one in made)
        for one in made:
            check_within(one.account, model)
            if one.exit_code != -9 and (one.closing or one.exit_code == 3):
                assert one.exit_code == 3 and "reached" in one.reason
        used = {one.pid: (one.account.used, one.account.living) for one in made}
        again = ProcessTable(journal, lambda: [])
        again.restore()
        for one in made:
            same = again.get(one.pid)
            rounded = round(same.account.used.cost_usd, 9)
            assert rounded == round(used[one.pid][0].cost_usd, 9)
            same.account.used.cost_usd = used[one.pid][0].cost_usd
            assert (same.account.used, same.account.living) == used[one.pid]
            assert same.account.ceilings == one.account.ceilings

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
