"""Caveats: what a spec asks for, to use and to hand on, and so all that its agent gets.

They are values. See `rights` for the chain of them that binds an agent.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.rights import Grant, Rules, access_of, grant

SHARED_CHARS = 4096
"""What is longer is not kept for agents that are alike."""

Globs = tuple[str, ...]
Named = tuple[Globs | None, Globs, Globs | None, Globs | None]
"""Globs of tools, of denied ones, of models and of agents."""


def matches(globs: Globs | None, name: str) -> bool:
    """True when a glob fits, or nothing is said."""
    return globs is None or any(fnmatchcase(name, glob) for glob in globs)


def is_glob(name: str) -> bool:
    """True for a pattern, False for a plain name."""
    return any(char in name for char in "*?[")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one caveat lets through; None says nothing.

    Attributes:
        tools, denied: globs of tools; what is denied is not let through, whatever `tools` says.
        paths: grants; of two the longer path decides.
        models, agents: globs of models, and of installed agents to start.
    """

    tools: Globs | None = None
    denied: Globs = ()
    paths: tuple[Grant, ...] | None = None
    models: Globs | None = None
    agents: Globs | None = None

    def allows(self, kind: str, name: str) -> bool:
        """True when it lets a tool, model or agent of that name through."""
        if kind == "tools" and self.denied and matches(self.denied, name):
            return False
        globs: Globs | None = getattr(self, kind)
        return matches(globs, name)

    @property
    def chars(self) -> int:
        """How long it is."""
        lists = (self.tools, self.denied, self.models, self.agents)
        paths = _chars(one.path for one in self.paths or ())
        return paths + sum(_chars(names) for names in lists if names)

    @property
    def named(self) -> Named:
        """All that it says but paths."""
        return self.tools, self.denied, self.models, self.agents

    @classmethod
    def of_named(cls, named: Named) -> "Bounds":
        """Bounds that say nothing of paths."""
        tools, denied, models, agents = named
        return cls(tools, denied, None, models, agents)

    def to_json(self) -> dict[str, Any]:
        """What it says, as the journal keeps it."""
        said: dict[str, Any] = {}
        for kind in ("tools", "denied", "models", "agents"):
            globs: Globs | None = getattr(self, kind)
            if globs is not None and (globs or kind != "denied"):
                said[kind] = list(globs)
        if self.paths is not None:
            said["paths"] = [[one.path, one.access] for one in self.paths]
        return said

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> "Bounds":
        """The bounds of `to_json`."""
        globs = {kind: tuple(value) for kind, value in said.items() if kind != "paths"}
        paths = said.get("paths")
        grants = None if paths is None else tuple(grant(path, access) for path, access in paths)
        return cls(**globs, paths=grants)


@dataclass(frozen=True, slots=True)
class Caveat:
    """One link of the chain: what its owner may use, and what it may hand on."""

    use: Bounds
    hand_on: Bounds
    rules: Rules | None = None

    @classmethod
    def of(cls, spec: AgentSpec) -> "Caveat":
        """What a spec asks for, and so all it gets."""
        return cls.with_paths(spec, spec.paths)

    @classmethod
    def with_paths(cls, spec: AgentSpec, paths: tuple[Grant, ...] | None) -> "Caveat":
        """The same with other paths."""
        use = Bounds(spec.tools, spec.disallowed_tools, paths)
        given, rules = spec.delegate, spec.rules
        if spec.permission_mode is not None:
            rules = Rules.model_validate({**dict(rules or {}), "mode": spec.permission_mode})
        if given is None:
            return cls(use, use, rules)
        own_tools = given.tools is None
        return cls(use, Bounds(
            use.tools if own_tools else given.tools,
            use.denied if own_tools else (),
            use.paths if given.paths is None else given.paths,
            given.models,
            given.agents,
        ), rules)  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """What it says, as the journal keeps it."""
        said: dict[str, Any] = {"use": self.use.to_json()}
        if self.hand_on != self.use:
            said["hand_on"] = self.hand_on.to_json()
        if self.rules is not None:
            said["rules"] = self.rules.model_dump(mode="json", exclude_defaults=True)
        return said

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> "Caveat":
        """The caveat of `to_json`."""
        use, rules = Bounds.of_json(said["use"]), said.get("rules")
        hand_on = Bounds.of_json(said["hand_on"]) if "hand_on" in said else use
        return cls(use, hand_on, None if rules is None else Rules.model_validate(rules)).shared()

    def shared(self) -> "Caveat":
        """One object for equal ones, to be kept: thousands of agents have the same.

        A long one is not kept for others: it would stay in memory when its agent is gone.
        """
        rules = self.rules
        words = _chars((*rules.deny, *rules.ask, *rules.allow)) if rules is not None else 0
        long = self.use.chars + self.hand_on.chars + words > SHARED_CHARS
        return self if long else _shared(self)

    @staticmethod
    def of_line(line: bytes) -> "Caveat":
        """The caveat of `to_json`, as JSON: agents that are alike say it in the same bytes."""
        if len(line) <= SHARED_CHARS:
            return _of_line(line)
        return Caveat.of_json(json.loads(line))


@lru_cache(1000)
def _shared(caveat: Caveat) -> Caveat:
    return caveat


@lru_cache(1000)
def _of_line(line: bytes) -> Caveat:
    return Caveat.of_json(json.loads(line))


def _chars(names: Iterable[str]) -> int:
    return sum(map(len, names))


NOTHING = Caveat(Bounds((), paths=()), Bounds((), paths=(), models=(), agents=()))
"""What binds an agent whose ancestor's caveats cannot be read any more."""


def excess_of(above: list[Bounds], wanted: Bounds, tools_of: Globs | None) -> list[str]:
    """What `wanted` names and some of `above` does not let through; `tools_of` are named tools.

    A glob asks for what there is, so it is never too much.
    """
    found: list[str] = []
    for kind, names in (("tools", tools_of), ("models", wanted.models), ("agents", wanted.agents)):
        for name in names or ():
            asked = not is_glob(name) and not (kind == "tools" and not wanted.allows(kind, name))
            if asked and not all(bounds.allows(kind, name) for bounds in above):
                found.append(name)
    lists = [bounds.paths for bounds in above if bounds.paths is not None]
    for one in wanted.paths or ():
        if min((access_of(grants, one.path) for grants in lists), default="rw") < one.access:
            found.append(f"{one.path} ({one.access})")
    return found
