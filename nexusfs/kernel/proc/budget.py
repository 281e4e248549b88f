"""Limits as a tree: accounts, one an agent, that pay for what happens below them.

Each use is booked on an account and on all above it, and each ceiling of these must have room for
what is asked. A model call is reserved up the tree before it is made and settled after; a
provider's excess over that is booked all the same, and then nothing more is admitted. An account
hangs below that of who spawned its agent, for good: who is adopted does not get away from a
ceiling. The topmost account is the user's of the day: see `purses`.

Concurrency: in the trio thread; nothing suspends, so a check and the reservation that follows it
are one step.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from nexusfs.contracts.errors import QuotaError
from nexusfs.contracts.limits import shown
from nexusfs.contracts.model import Quote, Usage
from nexusfs.kernel.clock import now_ns

SAFETY_TENTHS = 11
"""A prompt is reserved so many tenths: providers count a little differently."""
LEAST_ANSWER, LEAST_CLOSING = 64, 16
"""Tokens below which a call is not worth making."""
WARN_AT = 0.8
"""Part of a ceiling of cost at which its agent is warned."""
SPENT = ("turns", "tokens", "cost_usd", "wall_seconds", "tool_calls")
"""Limits at which an agent comes to its end; the others only refuse spawns."""


@dataclass(slots=True)
class Totals:
    """What was used, and `unpriced`, the number of calls whose cost nobody knows."""

    turns: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def add(self, other: "Totals", sign: int = 1) -> None:
        """Adds, or takes away with -1."""
        self.turns += sign * other.turns
        self.model_calls += sign * other.model_calls
        self.tool_calls += sign * other.tool_calls
        self.input_tokens += sign * other.input_tokens
        self.output_tokens += sign * other.output_tokens
        self.cost_usd += sign * other.cost_usd
        self.unpriced += sign * other.unpriced

    def to_json(self) -> dict[str, Any]:
        """What is not zero."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name))}

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.input_tokens + self.output_tokens


_NOTHING = Totals()
"""What all who have used nothing share."""


@lru_cache(1000)
def _shared(ceilings: tuple[tuple[str, float], ...]) -> Mapping[str, float]:
    return MappingProxyType(dict(ceilings))


@dataclass(slots=True, eq=False)
class Account:
    """What one agent and all below it have used and reserved, and its own ceilings.

    Attributes:
        pid: whose it is; 0 for a user's.
        ceilings: by name; a limit that is not there has none of its own.
        allows_unknown: whether a ceiling of cost admits a model of unknown price.
        above: the account of who spawned it.
        used: by the whole subtree.
        settled: of that, by agents that are forgotten.
        living: agents below it that have not ended.
        started_ns: when its time began; 0 while it has not.
    """

    pid: int = 0
    ceilings: Mapping[str, float] = field(default_factory=lambda: _shared(()))
    allows_unknown: bool = False
    above: "Account | None" = None
    used: Totals = field(default_factory=lambda: _NOTHING)
    settled: Totals | None = None
    living: int = 0
    started_ns: int = 0
    held: dict[str, float] | None = None

    def set_ceilings(self, ceilings: Mapping[str, float]) -> None:
        """Sets its own ceilings; equal ones are one object, for many agents."""
        self.ceilings = _shared(tuple(ceilings.items()))

    def chain(self) -> Iterator["Account"]:
        """This account and those above it."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.above

    def all_ceilings(self) -> Iterator[Mapping[str, float]]:
        """Those of this account and of those above it."""
        return (one.ceilings for one in self.chain())

    def hang_below(self, above: "Account | None", *, living: bool) -> None:
        """Says who pays too; what was used so far, and whether its agent lives, counts there."""
        self.above = above
        for one in above.chain() if above is not None else ():
            one.carry(self.used)
            one.living += self.living + living

    def ended(self) -> None:
        """Its agent lives no more."""
        for one in self.above.chain() if self.above is not None else ():
            one.living -= 1

    def book(self, what: Totals) -> list[str]:
        """Books a use up the tree; sentences of ceilings that come near by it."""
        near = []
        for one in self.chain():
            before = one.used.cost_usd
            one.take_in(what)
            ceiling = one.ceilings.get("cost_usd") if what.cost_usd else None
            if ceiling and before < WARN_AT * ceiling <= one.used.cost_usd:
                near.append(f"{one.used.cost_usd:.4f} of {one.named('cost_usd')} are used")
        return near

    def take_in(self, what: Totals) -> None:
        """Adds a use that happens now to this account alone."""
        self.carry(what)

    def carry(self, what: Totals, sign: int = 1) -> None:
        """Adds a use that happened before, or takes it out with -1."""
        if self.used is _NOTHING:
            self.used = Totals()
        self.used.add(what, sign)

    def forget(self, child: "Account") -> Totals:
        """Takes a child's use out up the tree; `settle` puts it back, for good."""
        for one in self.chain():
            one.carry(child.used, -1)
        return child.used

    def settle(self, what: Totals) -> None:
        """Takes in the use of a child that is forgotten."""
        self.settled = self.settled or Totals()
        self.settled.add(what)
        for one in self.chain():
            one.carry(what)

    # -- looking

    def amount(self, name: str) -> float:
        """How much of a limit is used."""
        if name == "cost_usd":
            return self.used.cost_usd
        if name == "wall_seconds":
            return max(now_ns() - self.started_ns, 0) / 1e9 if self.started_ns else 0.0
        if name in ("children", "depth"):
            return self.living if name == "children" else 0
        value: float = getattr(self.used, name)
        return value

    def taken(self, name: str) -> float:
        """How much is used or reserved."""
        return self.amount(name) + (self.held or {}).get(name, 0)

    def ceiling(self, name: str) -> float | None:
        """The lowest ceiling of this account and those above it; None: there is none."""
        found = [
            max(one.ceilings[name] - (level if name == "depth" else 0), 0)
            for level, one in enumerate(self.chain())
            if name in one.ceilings
        ]
        return min(found, default=None)

    def given(self, name: str) -> float | None:
        """The highest ceiling that an account below this one may have; None: any."""
        ceiling = self.ceiling(name)
        return max(ceiling - 1, 0) if ceiling is not None and name == "depth" else ceiling

    def left(self, name: str) -> float | None:
        """How much may still be used; None: there is no ceiling."""
        if name == "depth":
            return self.ceiling(name)
        found = [
            one.ceilings[name] - one.taken(name) for one in self.chain() if name in one.ceilings
        ]
        return max(min(found), 0) if found else None

    def reached(self, *but: str) -> str | None:
        """The nearest limit that is spent, as a sentence; None: there is room everywhere."""
        one: Account | None = self
        while one is not None:  # no `chain`: asked a dozen times in a step
            ceilings = one.ceilings
            for name in SPENT if ceilings else ():
                if name in ceilings and name not in but and one.amount(name) >= ceilings[name]:
                    return f"{one.named(name)} reached"
            one = one.above
        return None

    def named(self, name: str) -> str:
        """A limit as reasons and errors name it."""
        return f"{name} ({shown(self.ceilings[name])}) of agent {self.pid}"

    # -- asking

    def check(self, *but: str) -> None:
        """QuotaError EDQUOT when a limit is spent."""
        why = self.reached(*but)
        if why is not None:
            raise QuotaError(f"{why}: nothing more is admitted; its owner may raise the limit")

    def check_spawn(self, count: int = 1) -> None:
        """QuotaError EDQUOT when this agent may not start so many children more."""
        self.check()
        for level, one in enumerate(self.chain(), 1):
            if one.pid and one.ceilings.get("depth", math.inf) < level:
                raise QuotaError(f"{one.named('depth')} reached: it starts no agent so far down")
            if one.living + count > one.ceilings.get("children", math.inf):
                raise QuotaError(f"{one.named('children')} reached: wait until one has ended")

    def check_tool(self) -> None:
        """QuotaError EDQUOT when no tool call is left."""
        self.check()

    def hold_turn(self) -> "Hold":
        """A turn that may lead to another one. QuotaError EDQUOT."""
        self.check()
        for one in self.chain():
            if "turns" in one.ceilings and one.taken("turns") + 1 > one.ceilings["turns"]:
                raise QuotaError(f"{one.named('turns')} reached")
        return Hold(self, {"turns": 1})

    def hold_call(self, quote: Quote, asked_tokens: int, *, closing: bool) -> "Hold":
        """Reserves a model call: its prompt, and as much of the answer as there is room for.

        A `closing` one is made although turns or tool calls are spent. QuotaError EDQUOT when there
        is no room for it, or its price is unknown and a ceiling of cost refuses that.
        """
        self.check(*(("turns", "tool_calls") if closing else ()))
        self._check_price(quote)
        prompt = -(-quote.input_tokens * SAFETY_TENTHS // 10)
        answer, tightest = float(asked_tokens), ""
        for one in self.chain():
            for name, room in one.rooms(quote, prompt) if one.ceilings else ():
                if room < answer:
                    answer, tightest = room, one.named(name)
        if answer < min(LEAST_CLOSING if closing else LEAST_ANSWER, asked_tokens):
            raise QuotaError(f"{tightest} reached: a prompt of {prompt} tokens does not fit")
        tokens = int(answer)
        cost = quote.cost_usd(prompt, tokens) or 0.0
        return Hold(self, {"tokens": prompt + tokens, "cost_usd": cost}, tokens)

    def _check_price(self, quote: Quote) -> None:
        if quote.is_known or self.allows_unknown:
            return
        for one in self.chain():
            if "cost_usd" in one.ceilings:
                raise QuotaError(
                    f"the price of {quote.model} is unknown, and {one.named('cost_usd')} holds: "
                    'say "limits": {"unknown_price": "allow"} in the spec, or in [limits] of the '
                    "configuration"
                )

    def rooms(self, quote: Quote, prompt: int) -> Iterator[tuple[str, float]]:
        """(limit, tokens of an answer that it has room for), of the ceilings of this account."""
        if "tokens" in self.ceilings:
            yield "tokens", self.ceilings["tokens"] - self.taken("tokens") - prompt
        if "cost_usd" not in self.ceilings:
            return
        if quote.input_usd is None or quote.output_usd is None:
            return  # allowed, as `_check_price` found
        money = self.ceilings["cost_usd"] - self.taken("cost_usd") - prompt * quote.input_usd
        yield (
            "cost_usd",
            money / quote.output_usd if quote.output_usd else math.copysign(math.inf, money),
        )

    def hold(self, what: Iterable[tuple[str, float]]) -> None:
        """Adds to what is reserved; negative amounts take away."""
        held = self.held
        if held is None:
            held = self.held = {}
        for name, amount in what:
            left = held.get(name, 0) + amount
            if -1e-9 < left < 1e-9:  # what floats leave
                held.pop(name, None)
            else:
                held[name] = left


_RELEASED: Mapping[str, float] = MappingProxyType({})


class Hold:
    """A reservation up the tree, until it is released; that may be said twice.

    Attributes:
        answer_tokens: how long the answer of a model call may be.
    """

    __slots__ = ("_account", "_what", "answer_tokens")

    def __init__(self, account: Account, what: Mapping[str, float], answer_tokens: int = 0) -> None:
        """Reserves at once."""
        self._account = account
        self._what = what
        self.answer_tokens = answer_tokens
        self._add(1)

    def excess(self, used: Usage) -> dict[str, float]:
        """What a model call used over its reservation, of the limits that have a ceiling."""
        tokens = used.input_tokens + used.output_tokens - self._what.get("tokens", 0)
        cost = (used.cost_usd or 0.0) - self._what.get("cost_usd", 0.0)
        over = {"tokens": tokens, "cost_usd": cost} if tokens > 0 or cost > 0 else {}
        return {
            name: amount
            for name, amount in over.items()
            if amount > 0 and self._account.ceiling(name) is not None
        }

    def release(self) -> None:
        """Gives back what was reserved; what was used is booked by itself."""
        self._add(-1)
        self._what = _RELEASED

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _add(self, sign: int) -> None:
        what = [(name, sign * amount) for name, amount in self._what.items() if amount]
        for one in self._account.chain():
            one.hold(what)
