"""What agents may use and hand on, as a spec says it: paths, and what children may get."""

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Access = Literal["r", "rw"]
Names = Annotated[tuple[str, ...], Field(max_length=1000)]

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


def names_of(value: object) -> object:
    """`Read, Grep` and ["Read", "Grep"] are the same list."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple | None):
        raise ValueError("write a list of names, or one text with commas")
    return value if value is None else tuple(value)


class Grant(BaseModel):
    """A path of the mount tree, with all below it, and what may be done there."""

    model_config = _STRICT

    path: str = Field(pattern=r"^/[^\x00]*$", max_length=4096)
    access: Access = "rw"

    def __hash__(self) -> int:
        return hash((self.path, self.access))  # pydantic's own is ten times slower

    @field_validator("path", mode="after")
    @classmethod
    def _plain(cls, value: str) -> str:
        """Without empty names and `.`; `..` would mean another path after a rename."""
        names = [name for name in value.split("/") if name not in ("", ".")]
        if ".." in names:
            raise ValueError("a granted path is written without '..'")
        if names[:1] == ["nexus"]:
            names = names[1:]
        return "/" + "/".join(names)


class Delegation(BaseModel):
    """What an agent may hand on to its children; what is absent is what it may use itself."""

    model_config = _STRICT

    agents: Names | None = Field(None, description="installed agents, names or globs")
    tools: Names | None = Field(None, description="names or globs")
    models: Names | None = Field(None, description="provider/model, or globs")
    paths: tuple[Grant, ...] | None = Field(None, max_length=100)
    max_depth: int | None = Field(None, ge=0, le=1000, description="levels below it")
    max_children: int | None = Field(None, ge=0, description="agents below it at once")

    @field_validator("agents", "tools", "models", mode="before")
    @classmethod
    def _comma_string(cls, value: object) -> object:
        return names_of(value)

    @field_validator("paths", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


ALLOW, ASK, DENY = "allow", "ask", "deny"
PermissionMode = Literal["allow", "ask", "deny"]


class Rules(BaseModel):
    """What a call of a tool comes to: deny → ask → allow, first match; else the mode.

    A pattern is a glob of tools, or `tool(glob)` over the main argument of the call. What only
    reads is not asked for by the mode, nor denied.
    """

    model_config = _STRICT

    deny: Names = ()
    ask: Names = ()
    allow: Names = ()
    mode: PermissionMode = "allow"

    @field_validator("deny", "ask", "allow", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("deny", "ask", "allow", mode="after")
    @classmethod
    def _whole(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if "(" in pattern and not pattern.endswith(")"):
                raise ValueError(f"{pattern!r} never fits: write tool, or tool(glob)")
        return value

    def tools(self) -> tuple[str, ...]:
        """The tools, or globs of them, that the patterns name."""
        return tuple(one.partition("(")[0] for one in (*self.deny, *self.ask, *self.allow))


@lru_cache(1000)
def grant(path: str, access: Access = "rw") -> Grant:
    """A grant of a path that is plain already; equal ones are one object."""
    return Grant.model_construct(path=path, access=access)


EVERYTHING = (grant("/", "rw"), grant("/bin", "r"), grant("/etc", "r"))
"""What an agent gets that nothing narrows: all its user may, but no say in what agents there are
and what rules they have."""


def is_within(path: str, top: str) -> bool:
    """True for `top` itself and everything below it; both plain and absolute."""
    return top in ("/", path) or path.startswith(f"{top}/")


def access_of(grants: tuple[Grant, ...], path: str) -> str:
    """`rw`, `r` or the empty string: of two grants the longer path decides."""
    best = max(
        (one for one in grants if is_within(path, one.path)),
        key=lambda one: len(one.path), default=None,
    )  # fmt: skip
    return best.access if best else ""


def joined(lists: list[tuple[Grant, ...]]) -> tuple[Grant, ...]:
    """One list that grants what every one of the lists grants."""
    found: list[Grant] = []
    for path in sorted({one.path for grants in lists for one in grants}):
        access = min((access_of(grants, path) for grants in lists), default="")
        if access and access != access_of(tuple(found), path):
            found.append(grant(path, "rw" if access == "rw" else "r"))
    return tuple(found)
