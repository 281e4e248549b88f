"""What a new agent really gets: its spec merged with the installed one and cut by its parent."""

from dataclasses import dataclass
from typing import Any

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.errors import InvalidError, NotPermittedError
from nexusfs.contracts.words import nearest
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rights import Rights, ToolCaveat, excess, is_glob, may_use

_NOT_ASKED: set[str] = set()
"""Which fields were given does not matter of an effective spec; all of them share this."""

NO_TOOL_HERE = "no tool of that name here, so the agent goes without it"


@dataclass(frozen=True, slots=True)
class Plan:
    """The effective spec, the rights that go with it, and what the spawner should know."""

    spec: AgentSpec
    rights: Rights
    warnings: tuple[str, ...]


def effective_spec(
    wanted: AgentSpec,
    base: AgentSpec | None,
    parent: Process | None,
    tools: list[str],
    default_model: str,
) -> Plan:
    """Merges `wanted` over the installed `base`, inherits from `parent`, and narrows.

    Raises:
        NotPermittedError: EPERM, with the list of what was too much, unless it says clamp; or it
            asks for another zone than its parent's.
        InvalidError: EINVAL, a tool that does not exist, with the nearest one.
    """
    warnings: list[str] = []
    _check_known(wanted.tools, tools)
    spec = wanted
    limits: Rights = parent.rights if parent else ()
    if base is not None:
        warnings += [f"{name}: {NO_TOOL_HERE}" for name in unknown_tools(base.tools, tools)]
        limits += (ToolCaveat(base.tools, base.disallowed_tools),)
        spec = base.model_copy(update={k: getattr(wanted, k) for k in wanted.model_fields_set})
    too_much = excess(limits, ToolCaveat(wanted.tools, wanted.disallowed_tools))
    if too_much and wanted.on_excess == "refuse":
        raise NotPermittedError(
            f"it may not have these tools: {', '.join(too_much)} "
            '(leave them out, or say "on_excess": "clamp")'
        )
    warnings += [f"{name}: narrowed away" for name in too_much]
    rights = (*limits, ToolCaveat(spec.tools, spec.disallowed_tools))
    model = spec.model
    if model == "inherit":
        model = parent.spec.model if parent else default_model
    asked_zone = spec.zone if "zone" in wanted.model_fields_set else None
    if parent is not None and asked_zone not in (None, parent.spec.zone):
        raise NotPermittedError(f"it may only be in the zone of its parent, {parent.spec.zone}")
    granted = tuple(name for name in tools if may_use(rights, name))
    fields = {**dict(spec), "model": model, "tools": granted, "disallowed_tools": ()}
    if parent is not None:
        fields["zone"] = parent.spec.zone
    return Plan(AgentSpec.model_construct(_NOT_ASKED, **fields), rights, tuple(warnings))


def unknown_tools(wanted: tuple[str, ...] | None, tools: list[str]) -> list[str]:
    """Plain names that no tool has."""
    return [name for name in wanted or () if not is_glob(name) and name not in tools]


def _check_known(wanted: tuple[str, ...] | None, tools: list[str]) -> None:
    for name in unknown_tools(wanted, tools):
        near = nearest(name, tools)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(tools)}"
        raise InvalidError(f"$.tools: no tool {name!r}: {hint}")


def narrowed(stored: tuple[Any, ...]) -> Rights:
    """Rights as the journal keeps them: (allowed globs or None, denied globs) each."""
    return tuple(ToolCaveat(None if a is None else tuple(a), tuple(d)) for a, d in stored)
