"""The claims of one owner, in the order in which they get his slots."""

from collections import OrderedDict
from collections.abc import Iterator

from nexusfs.kernel.sched.claim import FIRST_ESTIMATE_S, Claim, Place, aged, place_of, ratio

CALLS_SEEN = 4
"""An owner's usual call is the mean of about so many last ones."""


CREDIT_S = 60.0
"""Slot-seconds that an owner may have used less than the others, and get before they go on."""


class Owner:
    """What one owner holds and waits for.

    Claims of one place have the same class and estimate, so the first of them is the best of them:
    choosing looks at one claim for each place, however many wait.

    Shares follow start-time fair queuing: the next turn is his who has used the fewest
    slot-seconds, and who comes in begins where the others are. Source: Goyal, Vin, Cheng,
    "Start-Time Fair Queueing", SIGCOMM 1996.
    """

    __slots__ = ("_places", "call_s", "held", "passed_s", "turn_s", "uid", "used_s", "waiting")

    def __init__(self, uid: int) -> None:
        """An owner without slots."""
        self.uid = uid
        self.held = self.waiting = 0
        self.call_s = FIRST_ESTIMATE_S
        """Seconds that his calls last."""
        self.used_s = 0.0
        """Slot-seconds, of calls under way what they are expected to take."""
        self.turn_s = 0.0
        """Trio time of his last turn, or from which he waits for his first."""
        self.passed_s: float | None = None
        """Trio time from which others are served who have used more; None when none is."""
        self._places: dict[Place, OrderedDict[Claim, None]] = {}

    # -- use

    def join(self, now_s: float, reached_s: float) -> None:
        """He wants his first slot: what he did not use while he wanted none is no credit."""
        self.turn_s = now_s
        self.used_s = max(self.used_s, reached_s)

    def begin(self, claim: Claim, now_s: float, reached_s: float) -> float:
        """A call of his begins: he pays for a usual one. How far the use of all has come."""
        self.held += 1
        self.turn_s, self.passed_s = now_s, None
        start_s = max(self.used_s, reached_s - CREDIT_S)
        claim.paid_s = self.call_s
        self.used_s = start_s + claim.paid_s
        return max(reached_s, start_s)

    def settle(self, claim: Claim, lasted_s: float) -> None:
        """A call of his is over: he has paid what it took."""
        self.held -= 1
        self.used_s += lasted_s - claim.paid_s
        self.call_s += (lasted_s - self.call_s) / CALLS_SEEN

    # -- claims that wait

    def add(self, claim: Claim) -> None:
        """A claim begins to wait."""
        if not claim.estimate_s:
            claim.estimate_s = self.call_s
        place = claim.place = place_of(claim)
        claims = self._places.get(place)
        if claims is None:
            claims = self._places[place] = OrderedDict()
        claims[claim] = None
        self.waiting += 1

    def remove(self, claim: Claim) -> bool:
        """A claim waits no more; False when it did not."""
        claims = self._places.get(claim.place)
        if claims is None or claim not in claims:
            return False
        del claims[claim]
        if not claims:
            del self._places[claim.place]
        self.waiting -= 1
        return True

    def renice(self, claim: Claim, nice: int) -> None:
        """Gives a claim that waits another nice value; the time it has waited stays."""
        self.remove(claim)
        claim.nice = nice
        self.add(claim)
        claims = self._places[claim.place]
        for later in [each for each in claims if each.since_s > claim.since_s]:
            claims.move_to_end(later)

    def best(self, now_s: float, ageing_s: float) -> Claim:
        """The claim that is served next. There must be one."""
        if len(self._places) == 1:
            return next(iter(next(iter(self._places.values()))))

        def urgency(place: Place) -> tuple[int, float]:
            waited_s = now_s - next(iter(self._places[place])).since_s
            return aged(place[0], waited_s, ageing_s), -ratio(place, waited_s)

        return next(iter(self._places[min(self._places, key=urgency)]))

    def bid(self, now_s: float, ageing_s: float) -> tuple[int, float, float]:
        """What is compared between owners, the lowest first: class, use, and the last turn."""
        priority = min(self._places)[0]
        if self.passed_s is not None:
            priority = aged(priority, now_s - self.passed_s, ageing_s)
        return priority, self.used_s, self.turn_s

    def __iter__(self) -> Iterator[Claim]:
        """The claims that wait, in no order."""
        for claims in self._places.values():
            yield from claims
