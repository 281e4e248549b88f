"""Limits of a tree of agents: what a spec says of them, and what they count."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LIMITS = ("turns", "tokens", "cost_usd", "wall_seconds", "tool_calls", "children", "depth")
"""Each is of an agent and all below it: turns that led to another one, tokens of prompts and of
answers, US dollars, seconds since its start, tool calls, agents that live below it at once, and
levels of them."""
WHOLE = frozenset(LIMITS) - {"cost_usd", "wall_seconds"}
"""Those that count whole things."""
MAX = "max"
"""No ceiling of its own; those above it hold."""

Count = Annotated[int, Field(ge=0, le=1 << 53)] | Literal["max"] | None
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["max"] | None


class Limits(BaseModel):
    """Ceilings that a spec asks for; absent: those above it alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    turns: Count = None
    tokens: Count = None
    cost_usd: Amount = None
    wall_seconds: Amount = None
    tool_calls: Count = None
    children: Count = None
    depth: Count = None
    unknown_price: Literal["refuse", "allow"] | None = Field(
        None, description="what a ceiling of cost_usd does with a model whose price is unknown"
    )

    def ceilings(self) -> dict[str, float]:
        """The numbers, by name."""
        found = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in found.items() if value not in (None, MAX)}


def shown(value: float | None) -> str:
    """A ceiling as its file shows it: one value, or `max`."""
    return MAX if value is None else f"{value:.12g}"
