"""Effective specs that are equal are one object: thousands of agents of a kind have the same.

A spec is 1.2 KiB, a tenth of an idle agent. One with a task is hardly ever had twice, and is not
kept here.
"""

from typing import Any

from pydantic_core import to_json

from nexusfs.contracts.agent import AgentSpec

KINDS_KEPT = 100

_kinds: dict[bytes, AgentSpec] = {}
"""By what they say, in the order of their last use."""


def shared(spec: AgentSpec, said: dict[str, Any]) -> AgentSpec:
    """The spec, or an equal one; `said` is its `to_dict`."""
    if spec.task:
        return spec
    return _kept(to_json(said), spec)


def spec_of(said: dict[str, Any]) -> AgentSpec:
    """The spec of a `to_dict`. ValueError when it is none."""
    line = to_json(said)
    known = _kinds.get(line)
    spec = known or AgentSpec.model_validate_json(line)
    return spec if spec.task else _kept(line, spec)


def _kept(line: bytes, spec: AgentSpec) -> AgentSpec:
    known = _kinds.pop(line, spec)
    _kinds[line] = known
    if len(_kinds) > KINDS_KEPT:
        del _kinds[next(iter(_kinds))]
    return known
