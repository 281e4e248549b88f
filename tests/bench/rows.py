"""Rows of the table, and what makes them of nanoseconds.

Ratios are speeds: 2.0 means that ours takes half the time of the rival. A ratio is the median
over the rounds of the ratio within a round; the times beside it are medians over the rounds.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.rivals import Bench

ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `met` is None where there is no goal."""

    what: str
    ours: str
    rival: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def take(bench: Bench, op: str, targets: dict[str, Any], count: int) -> dict[str, list[list[int]]]:
    bench.client.run(op, targets, 1, count)
    return bench.client.run(op, targets, ROUNDS, count)


def against(
    times: dict[str, list[list[int]]], rival: str, what: str, goal: float | None = None
) -> Row:
    ours, theirs = means(times["nexusfs"]), means(times[rival])
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    mine, his = duration(statistics.median(ours)), duration(statistics.median(theirs))
    return Row(
        what, mine, f"{rival} {his}", ratio,
        "" if goal is None else f"≥ {goal:g}", None if goal is None else ratio >= goal,
    )  # fmt: skip


def means(rounds: Sequence[Sequence[int]]) -> list[float]:
    return [statistics.fmean(times) for times in rounds]


def quantile(times: Sequence[int], part: float) -> int:
    return sorted(times)[min(int(part * len(times)), len(times) - 1)]


def duration(ns: float) -> str:
    if ns < 1e6:
        return f"{ns / 1e3:.1f} µs" if ns < 1e5 else f"{ns / 1e3:.0f} µs"
    return f"{ns / 1e6:.2f} ms" if ns < 1e8 else f"{ns / 1e9:.2f} s"
