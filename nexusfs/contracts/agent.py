"""The spec of an agent, one strict model, and the results of a step."""

import copy
import json
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from nexusfs.contracts.errors import InvalidError, UnavailableError
from nexusfs.contracts.limits import Limits
from nexusfs.contracts.model import Message
from nexusfs.contracts.rights import Delegation, Grant, PermissionMode, Rules, names_of
from nexusfs.contracts.words import nearest

DEFAULT_MAX_TURNS = 20
SPEC_LIMIT_BYTES = 4 * 1024 * 1024

DEFAULT_CONTEXT_TOKENS = 128_000
"""Source: the reference runtime's max_context_tokens."""

LATER_FIELDS = frozenset({
    "mcp_servers", "mcpServers",
})  # fmt: skip
"""Fields of the contract that this version does not enforce: refused, never silently accepted."""

CLAUDE_FIELDS = frozenset({
    "color", "permissionMode", "skills", "hooks", "memory", "background", "effort", "isolation",
    "initialPrompt",
})  # fmt: skip
"""Front matter of Claude Code agents that has no meaning here: dropped, with a warning.

Source: Claude Code's documentation of subagent files.
"""

CLAUDE_TOOLS = {
    "Read": "read_file", "Write": "write_file", "Edit": "edit_file", "MultiEdit": "edit_file",
    "LS": "list_dir", "Glob": "glob", "Grep": "grep", "Bash": "exec", "Task": "delegate",
    "Agent": "delegate",
}  # fmt: skip
"""Claude Code's names of tools, so that an existing collection works by cp."""

SCHEMA_BYTES = 64 * 1024
"""Of an output_schema: the model is told it at each turn, and each answer is checked against it."""

LIST_MAX, ENTRY_MAX = 1000, 128
"""Entries of a list of tools, and characters of one: each is matched against each tool."""

LIST_CHARS = LIST_MAX * (ENTRY_MAX + 1)
"""Of a list that is one text with commas."""

NAME = re.compile(r"[a-z0-9-]{1,64}")
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Path = Annotated[str, Field(pattern=r"^/", max_length=4096)]
ModelName = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,1024}$")]


FORMS = {
    "name": "lower-case letters, digits and -, at most 64",
    "agent": "lower-case letters, digits and -, at most 64",
    "zone": "lower-case letters, digits and -, at most 64",
    "cwd": "a path from the mount point, which begins with /",
    "path": "a path from the mount point, which begins with /",
    "restore": "the 64 hexadecimal digits of a checkpoint's name",
}
"""What a field whose pattern does not fit should look like."""


class AgentSpec(BaseModel):
    """What to run: the JSON object that a write to proc/spawn takes, field by field.

    Absent `tools` inherits the parent's; an empty list is none. Each field's aliases are the
    names that other agent formats use for it.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True, strict=True)

    agent: Name | None = Field(None, description="installed agent of /bin to start from")
    name: Name | None = Field(None, description="shown in status; letters a-z, digits and -")
    description: str = ""
    model: ModelName = Field("inherit", description="provider/model, or inherit")
    fallback_models: tuple[ModelName, ...] = Field(
        (), max_length=16, description="tried in order when the model fails for good"
    )
    instructions: str = Field(
        "",
        validation_alias=AliasChoices("instructions", "system_prompt", "prompt"),
        description="the system prompt",
    )
    task: str = Field(
        "", validation_alias=AliasChoices("task", "input"), description="the first message"
    )
    tools: tuple[str, ...] | None = Field(
        None,
        validation_alias=AliasChoices("tools", "allowed_tools", "allowedTools"),
        description="names or globs; absent = inherit, [] = none",
    )
    disallowed_tools: tuple[str, ...] = Field(
        (), validation_alias=AliasChoices("disallowed_tools", "disallowedTools")
    )
    paths: tuple[Grant, ...] | None = Field(
        None, max_length=100, description="what it may read and write; absent = inherit"
    )
    delegate: Delegation | None = Field(
        None, description="what it may hand on; absent = what it may use"
    )
    permission_mode: PermissionMode | None = Field(
        None, description="what calls come to that no rule matches, but for those that only read"
    )
    rules: Rules | None = Field(
        None, description="patterns of calls: deny, ask, allow; first match"
    )
    limits: Limits | None = Field(None, description="ceilings of it and of all below it")
    max_turns: int = Field(
        DEFAULT_MAX_TURNS, ge=1, le=10_000, validation_alias=AliasChoices("max_turns", "maxTurns")
    )
    model_settings: dict[str, Any] = Field(
        default_factory=dict, description="litellm's call options, api_base among them; never a key"
    )
    max_context_tokens: int = Field(
        DEFAULT_CONTEXT_TOKENS, ge=1000, description="a longer conversation is trimmed"
    )
    trim: Literal["sliding_window", "summarize"] = "sliding_window"
    parallel_tool_dispatch: bool = Field(
        True, description="calls of one turn that only read run side by side"
    )
    output_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema of the answer, which is then JSON"
    )
    mode: Literal["oneshot", "chat"] = "oneshot"
    life: Literal["owned", "detached"] = "owned"
    priority: Literal["critical", "high", "normal", "low", "best_effort"] = "normal"
    immune: bool = Field(False, description="never evicted to make room for others")
    checkpoint: Literal["off", "turn", "tool"] = Field(
        "off", description="write a checkpoint by itself after each turn, or each tool call"
    )
    restore: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="a checkpoint to go on from"
    )
    zone: Name = Field("default", description="absent: the parent's")
    cwd: Path = "/"
    labels: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    singleton: bool = Field(False, description="at most one live agent of this name (EEXIST)")
    on_excess: Literal["refuse", "clamp"] = "refuse"
    idempotency_key: str | None = Field(None, max_length=256)

    @field_validator("tools", "disallowed_tools", "fallback_models", mode="before")
    @classmethod
    def _comma_string(cls, value: object) -> object:
        if isinstance(value, str) and len(value) > LIST_CHARS:
            raise ValueError(f"a list of names may have {LIST_CHARS} characters")
        return names_of(value)

    @field_validator("paths", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("tools", "disallowed_tools", mode="after")
    @classmethod
    def _tool_names(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if len(value) > LIST_MAX or any(len(name) > ENTRY_MAX for name in value):
            raise ValueError(f"a list of tools may have {LIST_MAX} names of {ENTRY_MAX} characters")
        names = (CLAUDE_TOOLS.get(re.sub(r"\(.*\)$", "", name), name) for name in value)
        return tuple(dict.fromkeys(names))

    @field_validator("labels", mode="before")
    @classmethod
    def _few_labels(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > LIST_MAX:
            raise ValueError(f"there may be {LIST_MAX} labels")
        return value

    @field_validator("output_schema", mode="after")
    @classmethod
    def _short_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            size_bytes = len(json.dumps(value, default=str))
        except RecursionError:
            raise ValueError("it is nested too deep: write a flatter schema") from None
        if size_bytes > SCHEMA_BYTES:
            raise ValueError(f"it has {size_bytes} bytes: {SCHEMA_BYTES} are the most")
        return value

    @field_validator("model_settings", mode="after")
    @classmethod
    def _no_key(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if re.search(r"api_?key|secret|token$|password|authorization", key, re.IGNORECASE):
                raise ValueError(
                    f"{key!r} is not taken here: put keys in the environment of nexusfs mount "
                    "or in [keys] of the configuration"
                )
        return value

    def own_metadata(self) -> dict[str, Any]:
        """A copy of the metadata, for those who may write into it."""
        return copy.deepcopy(self.metadata) if self.metadata else {}

    def to_dict(self) -> dict[str, Any]:
        """The spec as it can be spawned again: fields that differ from their defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)


@cache
def known_keys() -> list[str]:
    """Every key that a spec may have, aliases included."""
    keys: list[str] = []
    for name, info in AgentSpec.model_fields.items():
        alias = info.validation_alias
        keys += [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else [name]
    return keys


def parse_spec(raw: dict[str, Any]) -> AgentSpec:
    """The spec of a raw object, from any door.

    Raises:
        InvalidError: EINVAL; the message names the JSON path and the nearest known key.
        UnavailableError: EOPNOTSUPP, a field of the contract that this version does not enforce.
    """
    known = known_keys()
    for key in raw:
        if key in LATER_FIELDS:
            raise UnavailableError(f"{key!r} is not enforced by this version: leave it out")
        if key not in known:
            near = nearest(key[:100], known)
            hint = f"did you mean {near!r}?" if near else "read proc/spawn for the schema"
            raise InvalidError(f"unknown key {key[:100]!r} in the spec: {hint}")
    try:
        return AgentSpec.model_validate(raw)
    except ValidationError as exc:
        raise InvalidError(first_fault(exc)) from None


def first_fault(exc: ValidationError) -> str:
    """One sentence for the first fault: its JSON path, what is wrong, and what was given."""
    fault = exc.errors(include_url=False)[0]
    place = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in fault["loc"])
    given = json.dumps(fault.get("input"), default=str)
    given = given if len(given) <= 60 else given[:57] + "..."
    shown = "" if fault["type"] == "value_error" else f" (given {given})"  # may be a key's value
    return f"{place}: {_said(fault)}{shown}"


def _said(fault: ErrorDetails) -> str:
    """What pydantic says of a fault, or what to write instead."""
    name = fault["loc"][-1] if fault["loc"] else ""
    if fault["type"] == "string_pattern_mismatch" and name in FORMS:
        return f"write {FORMS[str(name)]}"
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        return "another name of this field is there too: leave one of them out"
    if fault["type"] == "extra_forbidden":
        return "there is no such key here: leave it out"
    return fault["msg"].removeprefix("Value error, ")


def spec_schema() -> bytes:
    """JSON Schema of a spec: what a fresh read of proc/spawn shows."""
    schema = AgentSpec.model_json_schema(by_alias=False)
    return json.dumps(schema, indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class AgentLoopConfig:
    """How the loop runs: of the bare loop in Python; an agent's follows from its spec.

    Attributes:
        max_turns: turns with tool calls after one input; one without tools follows.
        max_context_tokens: the prompt is kept below it, by `trim`.
        parallel_tool_dispatch: calls of one turn that only read run side by side.
        tool_timeout_s: on top of each tool's own limit (30 s unless it says otherwise).
    """

    max_turns: int = 100
    max_context_tokens: int = DEFAULT_CONTEXT_TOKENS
    parallel_tool_dispatch: bool = True
    tool_timeout_s: float = math.inf
    trim: Literal["sliding_window", "summarize"] = "sliding_window"

    @classmethod
    def of(cls, spec: AgentSpec) -> "AgentLoopConfig":
        """The configuration that a spec asks for."""
        return cls(
            max_turns=spec.max_turns,
            max_context_tokens=spec.max_context_tokens,
            parallel_tool_dispatch=spec.parallel_tool_dispatch,
            trim=spec.trim,
        )


class StepAction(StrEnum):
    """What a turn led to."""

    CONTINUE = "continue"
    DONE = "done"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StepResult:
    """One turn's outcome: the messages it added, the turn's number, and the error, if any."""

    action: StepAction
    messages: tuple[Message, ...] = field(default_factory=tuple)
    turn: int = 0
    error: str | None = None
