"""One agent's wish for a model slot, and the numbers that decide about it."""

import math
from dataclasses import dataclass

import trio

from nexusfs.contracts.proc import NICE_MIN, Priority

FIRST_ESTIMATE_S = 4.0
"""Seconds that a model call is taken to last until one has been seen."""

_SMALLEST, _LARGEST = -4, 10
"""Powers of two of the classes of estimates: 1/16 s to 17 minutes."""

NICE_STEP = 1.25
"""Weight of one step of nice. Source: sched_prio_to_weight in Linux's kernel/sched/core.c."""

WEIGHTS = tuple(NICE_STEP**-nice for nice in range(NICE_MIN, 20))
"""By nice - NICE_MIN: a response ratio is multiplied by it."""

Place = tuple[int, int, int]
"""Priority, nice, and power of two of the estimate: claims of one place are served in turn."""


@dataclass(slots=True, eq=False)
class Claim:
    """A slot that is held, or waited for.

    Attributes:
        owner: the uid that it counts for.
        pid: the agent.
        priority, nice: how important it is; a lower number is more so.
        estimate_s: seconds that the call will last, by those before; 0 for unknown.
        since_s: trio time from which it waits, or holds.
        granted: it holds a slot.
        task: what waits for it.
        place: where it waits.
        paid_s: slot-seconds that its owner has paid for it.
    """

    owner: int
    pid: int = 0
    priority: Priority = Priority.NORMAL
    nice: int = 0
    estimate_s: float = 0.0
    since_s: float = 0.0
    granted: bool = False
    task: trio.lowlevel.Task | None = None
    place: Place = (0, 0, 0)
    paid_s: float = 0.0

    def waited_s(self, now_s: float) -> float:
        """How long it has waited, or held."""
        return now_s - self.since_s


def place_of(claim: Claim) -> Place:
    """Where a claim is to wait. Estimates of a place differ by a factor of two at most."""
    power = math.frexp(claim.estimate_s)[1]
    return int(claim.priority), claim.nice, min(max(power, _SMALLEST), _LARGEST)


def ratio(place: Place, waited_s: float) -> float:
    """The response ratio of a claim: (waiting + estimate) / estimate, weighted by nice."""
    return WEIGHTS[place[1] - NICE_MIN] * (1.0 + waited_s / 2.0 ** place[2])


def aged(priority: int, waited_s: float, ageing_s: float) -> int:
    """The class of who has waited so long; goes on below 0, so that newcomers never overtake."""
    return priority - int(waited_s / ageing_s)
