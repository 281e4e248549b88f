"""What a new agent really gets: its spec merged with the installed one and cut by its parent."""

import math
from dataclasses import dataclass
from typing import Any

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.errors import InvalidError, NotPermittedError
from nexusfs.contracts.limits import Limits
from nexusfs.contracts.rights import EVERYTHING, Grant, access_of, grant, is_within
from nexusfs.contracts.words import nearest
from nexusfs.kernel.proc.caveats import Caveat, excess_of, is_glob
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rights import Rights

_NOT_ASKED: set[str] = set()
"""Which fields were given does not matter of an effective spec; all of them share this."""

_NO_LIMITS = Limits.model_validate({})
WHERE = ("api_base", "base_url", "extra_headers", "extra_body", "organization")
"""Settings that say who gets to read a prompt."""
NO_TOOL_HERE = "no tool of that name here, so the agent goes without it"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of new agents.

    Attributes:
        default_model: what `inherit` means for a top-level agent.
        cost_usd_per_agent: its ceiling of cost, where its spec says nothing; inf: none.
        allow_unknown_price: whether a ceiling of cost admits models of unknown price.
    """

    default_model: str = "offline/demo"
    cost_usd_per_agent: float = math.inf
    allow_unknown_price: bool = False

    @property
    def has_ceiling(self) -> bool:
        """True when agents get a ceiling of cost by default."""
        return self.cost_usd_per_agent < math.inf


@dataclass(frozen=True, slots=True)
class Plan:
    """The effective spec, the caveats that go with it, and what the spawner should know."""

    spec: AgentSpec
    caveats: tuple[Caveat, ...]
    limits: dict[str, Any]
    warnings: tuple[str, ...]


def effective_spec(
    wanted: AgentSpec,
    base: AgentSpec | None,
    parent: Process | None,
    tools: list[str],
    settings: Settings,
) -> Plan:
    """Merges `wanted` over the installed `base`, inherits from `parent`, and narrows.

    Raises:
        NotPermittedError: EPERM, with the list of what was too much, unless it says clamp; or it
            asks for another zone than its parent's, or a model that its parent may not hand on.
        InvalidError: EINVAL, a tool that does not exist, with the nearest one.
    """
    warnings: list[str] = []
    for names in (wanted.tools, wanted.delegate.tools if wanted.delegate else None):
        _check_known("tools", names, tools)
    if wanted.rules is not None:
        _check_known("rules", wanted.rules.tools(), tools)
    spec = wanted
    above = parent.rights if parent else None
    caveats: tuple[Caveat, ...] = ()
    if base is not None:
        warnings += [f"{name}: {NO_TOOL_HERE}" for name in unknown_tools(base.tools, tools)]
        caveats = (Caveat.of(base).shared(),)
        spec = base.model_copy(update={k: getattr(wanted, k) for k in wanted.model_fields_set})
    limits, over = own_limits(wanted, base, parent, settings)
    too_much = [*_excess(wanted, caveats, above), *over]
    if too_much and wanted.on_excess == "refuse":
        raise NotPermittedError(
            f"it may not have these: {', '.join(too_much)} "
            '(leave them out, or say "on_excess": "clamp")'
        )
    warnings += [f"{name}: narrowed away" for name in too_much]
    caveats = (*caveats, Caveat.with_paths(spec, _with_own(spec, parent)).shared())
    rights = Rights(0, caveats, above)
    model, where = _model_of(spec, parent, settings.default_model)
    if parent is not None:
        _check_handed_on(
            spec.model_copy(update={"model": model, "model_settings": where}), base, parent
        )
    zone = _zone_of(wanted, spec, parent)
    granted = rights.usable(tuple(tools))
    fields: dict[str, Any] = {
        "model": model, "model_settings": where, "tools": granted, "disallowed_tools": (),
        "zone": zone,
    }  # fmt: skip
    if parent is not None and rights.grants():
        fields["paths"] = rights.paths()
    spec = spec.model_copy(update=fields)
    object.__setattr__(spec, "__pydantic_fields_set__", _NOT_ASKED)
    return Plan(spec, caveats, limits, tuple(warnings))


def own_limits(
    wanted: AgentSpec, base: AgentSpec | None, parent: Process | None, settings: Settings
) -> tuple[dict[str, Any], list[str]]:
    """The ceilings of a new agent's own, as events keep them; and what of them is too high."""
    asked = _ceilings(wanted)
    found = _ceilings(base) if base is not None else {}
    over = [name for name, value in asked.items() if value > found.get(name, math.inf)]
    for name, value in asked.items():
        found[name] = min(value, found.get(name, math.inf))
        above = parent.account.given(name) if parent is not None else None
        if above is not None and value > above and name not in over:
            over.append(name)
    if parent is None and _asked(wanted).cost_usd is None and settings.has_ceiling:
        found.setdefault("cost_usd", settings.cost_usd_per_agent)
    said = _asked(wanted).unknown_price or (_asked(base).unknown_price if base else None)
    may = parent.account.allows_unknown if parent is not None else True
    if _asked(wanted).unknown_price == "allow" and not may:
        over.append("unknown_price")
    default = may if parent is not None else settings.allow_unknown_price
    if may and (said == "allow" or (said is None and default)):
        found["unknown_price"] = "allow"
    return found, [f"limits.{name}" for name in over]


def _asked(spec: AgentSpec) -> Limits:
    return spec.limits or _NO_LIMITS


def _ceilings(spec: AgentSpec) -> dict[str, Any]:
    """The ceilings of a spec, those of what it may hand on among them."""
    found = _asked(spec).ceilings()
    if spec.delegate is None:
        return found
    given = spec.delegate
    for name, value in (
        ("depth", given.max_depth), ("children", given.max_children),
    ):  # fmt: skip
        if value is not None:
            found[name] = min(value, found.get(name, math.inf))
    return found


def _excess(wanted: AgentSpec, installed: tuple[Caveat, ...], above: Rights | None) -> list[str]:
    """What is asked for by name, to use or to hand on, and cannot be had."""
    asked = Caveat.of(wanted)
    handed = [bounds for _, bounds in above.handed_on()] if above else []
    to_use = [*(one.use for one in installed), *handed]
    to_hand_on = [*(one.hand_on for one in installed), *handed]
    found = excess_of(to_use, asked.use, wanted.tools)
    if wanted.delegate is not None:
        found += excess_of(to_hand_on, asked.hand_on, wanted.delegate.tools)
    return list(dict.fromkeys(found))


def _with_own(spec: AgentSpec, parent: Process | None) -> tuple[Grant, ...] | None:
    """The paths of a spec, with its home; what a person starts can't change agents and rules.

    Who wants it to, grants /bin or /etc by name.
    """
    if spec.paths is None:
        return EVERYTHING if parent is None else None
    own = list(spec.paths)
    name = spec.name or spec.agent
    if name and access_of(spec.paths, f"/home/{name}") != "rw":
        own.append(grant(f"/home/{name}"))
    if parent is None:
        own += [
            one
            for one in EVERYTHING[1:]
            if any(is_within(one.path, asked.path) for asked in spec.paths)
            and not any(is_within(asked.path, one.path) for asked in spec.paths)
        ]
    return tuple(dict.fromkeys(own))


def _model_of(
    spec: AgentSpec, parent: Process | None, default_model: str
) -> tuple[str, dict[str, Any]]:
    """The model and its settings: who inherits a model gets it where its parent has it."""
    if spec.model != "inherit":
        return spec.model, spec.model_settings
    if parent is None:
        return default_model, spec.model_settings
    return parent.spec.model, {**parent.spec.model_settings, **spec.model_settings}


def _check_handed_on(spec: AgentSpec, base: AgentSpec | None, parent: Process) -> None:
    """NotPermittedError EPERM for a model, or an agent, that is not the parent's to give.

    Where agents are named, those alone may be started, and none of an inline spec.
    """
    above, allowed = parent.rights, [parent.spec.model_settings, {}]
    if base is not None:
        allowed.append(base.model_settings)
    for name in WHERE:
        if spec.model_settings.get(name) not in [one.get(name) for one in allowed]:
            raise NotPermittedError(
                f"model_settings.{name}: a child's model is where its parent's is; who installs an "
                "agent in /bin may say another place"
            )
    for model in (spec.model, *spec.fallback_models):
        if not above.may_hand_on("models", model):
            raise NotPermittedError(f"its parent may not hand on the model {model!r}")
    if not above.may_hand_on("agents", spec.agent or ""):
        what = f"the agent {spec.agent!r}" if spec.agent else "agents that are not installed"
        raise NotPermittedError(f"its parent may not start {what}")


def _zone_of(wanted: AgentSpec, spec: AgentSpec, parent: Process | None) -> str:
    asked = spec.zone if "zone" in wanted.model_fields_set else None
    if parent is None:
        return spec.zone
    if asked not in (None, parent.spec.zone):
        raise NotPermittedError(f"it may only be in the zone of its parent, {parent.spec.zone}")
    return parent.spec.zone


def unknown_tools(wanted: tuple[str, ...] | None, tools: list[str]) -> list[str]:
    """Plain names that no tool has."""
    return [name for name in wanted or () if not is_glob(name) and name not in tools]


def _check_known(field: str, wanted: tuple[str, ...] | None, tools: list[str]) -> None:
    for name in unknown_tools(wanted, tools):
        near = nearest(name, tools)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(tools)}"
        raise InvalidError(f"$.{field}: no tool {name!r}: {hint}")
