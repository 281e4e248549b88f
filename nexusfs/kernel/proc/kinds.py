"""Effective specs that are equal are one object: thousands of agents of a kind have the same.

A spec is 1.2 KiB, a seventh of an idle agent. One with a task is hardly ever had twice, and is not
kept here. Nobody writes into what is shared: hooks get copies.
"""

from typing import Any

from pydantic_core import to_json

from nexusfs.contracts.agent import AgentSpec

KINDS_KEPT, KIND_BYTES = 100, 4096
"""So many stay in memory when their agents are gone, and none that is longer."""

_kinds: dict[bytes, AgentSpec] = {}
"""By what they say, in the order of their last use."""


def shared(spec: AgentSpec, said: dict[str, Any]) -> AgentSpec:
    """The spec, or an equal one; `said` is its `to_dict`."""
    if spec.task:
        return spec
    line = to_json(said)
    if len(line) > KIND_BYTES:
        return spec
    known = _kinds.get(line)  # a copy of the first: a hook has that one, and may write into it
    return _kept(line, known or spec.model_copy(deep=True))


def spec_of(said: dict[str, Any]) -> AgentSpec:
    """The spec of a `to_dict`. ValueError when it is none."""
    line = to_json(said)
    known = _kinds.get(line)
    spec = known or AgentSpec.model_validate_json(line)
    return spec if spec.task or len(line) > KIND_BYTES else _kept(line, spec)


def _kept(line: bytes, spec: AgentSpec) -> AgentSpec:
    _kinds.pop(line, None)
    _kinds[line] = spec
    if len(_kinds) > KINDS_KEPT:
        del _kinds[next(iter(_kinds))]
    return spec
