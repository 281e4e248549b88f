"""What each user's agents may cost in a day: the accounts above all others.

What is spent is journaled as the kernel's, pid 1, one line for all users: the last one counts.
"""

import json
import logging
import math
from collections.abc import Callable

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.limits import shown
from nexusfs.contracts.proc import KERNEL_PID
from nexusfs.contracts.store import Journal
from nexusfs.kernel.clock import now_iso, now_ns
from nexusfs.kernel.proc.budget import Account, Totals
from nexusfs.kernel.proc.fold import line_of

log = logging.getLogger(__name__)

DAY_NS = 86_400 * 10**9


class Purse(Account):
    """A user's account of one day (UTC), above those of all agents that he started."""

    __slots__ = ("_keep", "day", "uid")

    def __init__(self, uid: int, keep: Callable[[], None], spent_usd: float = 0.0) -> None:
        """`spent_usd` was spent today before; `keep` journals what is spent from now on."""
        super().__init__()
        self.uid = uid
        self.day = now_ns() // DAY_NS
        self.used = Totals(cost_usd=spent_usd)
        self._keep = keep

    def take_in(self, what: Totals) -> None:
        """Cost alone is counted, and that of this day."""
        self._turn_page()
        if what.cost_usd:
            self.used.cost_usd += what.cost_usd
            self._keep()

    def carry(self, what: Totals, sign: int = 1) -> None:
        """What happened before is in its own journal."""

    def amount(self, name: str) -> float:
        """How much is used today."""
        self._turn_page()
        return self.used.cost_usd if name == "cost_usd" else super().amount(name)

    def named(self, name: str) -> str:
        """The limit as reasons and errors name it."""
        return f"{name} ({shown(self.ceilings[name])}) of user {self.uid} for the day"

    def _turn_page(self) -> None:
        if now_ns() // DAY_NS != self.day:
            self.day = now_ns() // DAY_NS
            self.used = Totals()


class Purses:
    """The purses of all users.

    Attributes:
        ceiling_usd: of each; inf: none.
    """

    def __init__(self, journal: Journal) -> None:
        """Nobody has spent anything; see `fill`."""
        self._journal = journal
        self._purses: dict[int, Purse] = {}
        self._ceiling_usd = math.inf

    @property
    def ceiling_usd(self) -> float:
        """See the class."""
        return self._ceiling_usd

    @ceiling_usd.setter
    def ceiling_usd(self, value: float) -> None:
        self._ceiling_usd = value
        for purse in self._purses.values():
            purse.set_ceilings(self._ceilings())

    def of(self, uid: int) -> Account:
        """A user's account of the day."""
        purse = self._purses.get(uid)
        return self._made(uid, 0.0) if purse is None else purse

    def fill(self) -> None:
        """Takes in what the journal says was spent today."""
        kept = json.loads(self._journal.edges(KERNEL_PID)[1][-1])
        for uid, spent in kept["users"].items() if kept["day"] == today() else ():
            self._made(int(uid), spent)

    def _made(self, uid: int, spent_usd: float) -> "Purse":
        purse = self._purses[uid] = Purse(uid, self._keep, spent_usd)
        purse.set_ceilings(self._ceilings())
        return purse

    def _ceilings(self) -> dict[str, float]:
        return {"cost_usd": self._ceiling_usd} if self._ceiling_usd < math.inf else {}

    def _keep(self) -> None:
        spent = {uid: purse.amount("cost_usd") for uid, purse in self._purses.items()}
        line = {"type": "spent", "day": today(), "users": {u: s for u, s in spent.items() if s}}
        try:
            self._journal.append(KERNEL_PID, line_of(line))
        except KernelError as exc:
            log.error("what users spent today is not in the journal: %s", exc)


def today() -> str:
    """The day, UTC."""
    return now_iso()[:10]
