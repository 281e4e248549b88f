"""Tools: a typed async function with a docstring, its manual, and the result of a call."""

import functools
import inspect
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.node import DirEntry, Stat
from nexusfs.contracts.proc import ExitStatus, ProcessInfo
from nexusfs.contracts.sandbox import Programs
from nexusfs.contracts.task import Collected, TaskInfo

DEFAULT_TIMEOUT_S = 30.0
"""Source: the reference runtime's tool_timeout."""
TOOL_LIMITS = {"read_chars": 50_000, "grep_hits": 50, "grep_chars": 200, "list_entries": 100}
"""What the configuration's [tools] leaves unsaid. Source: docs/tree.md, /dispatch."""
UNTRUSTED_INPUT, PRIVATE_DATA, EXTERNAL_EFFECT = (
    "untrusted_input", "private_data", "external_effect",
)  # fmt: skip
LABELS = frozenset({UNTRUSTED_INPUT, PRIVATE_DATA, EXTERNAL_EFFECT})
"""What a tool brings in, sees, or sends out. With all three, a sentence in a web page is enough to
send away what is private."""
CONTROL_TREES = ("/proc", "/dispatch", "/sys")
"""Where reading may block and writing is a request."""


class ToolFiles(Protocol):
    """All that a tool needs of the world: read, write, list and look. `BoundSyscalls` is one.

    Paths are absolute in the mount tree. Errors are KernelErrors. Every method may suspend.
    """

    async def read_file(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes [offset, offset + size), or to the end."""
        ...

    async def write_file(self, path: str, data: bytes, *, append: bool = False) -> int:
        """Replaces or appends the content, making the file (0666 & ~022) if absent; bytes written.

        On a control file it is one request, with all its consequences.
        """
        ...

    async def list_dir(self, path: str) -> list[DirEntry]:
        """The names of a directory."""
        ...

    async def list_page(
        self, path: str, start: int, count: int
    ) -> tuple[int, list[tuple[DirEntry, Stat | None]]]:
        """How many names a directory has, and `count` of them from `start` on, sorted.

        Each with its attributes; None where they cannot be seen.
        """
        ...

    async def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Attributes."""
        ...

    async def access(self, path: str, mode: int) -> bool:
        """True when the caller may (os.R_OK, W_OK, X_OK)."""
        ...

    async def make_dirs(self, path: str) -> None:
        """Makes a directory and its parents, where absent."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """One line that matched: `line` counts from 1, `text` without its newline."""

    path: str
    line: int
    text: str


class Search(Protocol):
    """The optional seam of grep and glob."""

    async def grep(
        self, pattern: str, path: str, *, include: str | None, limit: int
    ) -> tuple[list[Hit], bool]:
        """Lines at or below `path` that match a RE2 pattern, at most `limit`, and whether more do.

        `include` is a glob of the files to look at. InvalidError EINVAL for a broken pattern.
        """
        ...

    async def glob(self, pattern: str, path: str, *, limit: int) -> tuple[list[str], bool]:
        """Paths below `path` that match, sorted, at most `limit`, and whether there were more."""
        ...


class AgentCalls(Protocol):
    """The system calls on agents and tasks, with the caller's credentials. See `Syscalls`."""

    async def sys_proc_spawn(self, spec: dict[str, Any]) -> ProcessInfo:
        """Starts an agent."""
        ...

    async def sys_proc_wait(self, pid: int, timeout_s: float | None = None) -> ExitStatus:
        """Waits for the end of one."""
        ...

    async def sys_proc_kill(self, pid: int, reason: str = "") -> dict[str, Any]:
        """Ends one."""
        ...

    async def sys_proc_send(self, pid: int, text: str) -> None:
        """A message for its next turn."""
        ...

    async def sys_task_delegate(self, request: dict[str, Any]) -> TaskInfo:
        """Starts a worker for a task."""
        ...

    async def sys_task_collect(
        self, task_ids: list[int] | None = None, *, count: int | None = None,
        timeout_s: float | None = None,
    ) -> Collected:  # fmt: skip
        """Waits for tasks."""
        ...

    async def sys_task_cancel(self, task_id: int, reason: str = "") -> dict[str, Any]:
        """Ends a task."""
        ...

    async def sys_task_cancel_all(self) -> dict[str, Any]:
        """Ends all tasks of the caller."""
        ...

    async def sys_task_review(self, task_id: int, verb: str, text: str = "") -> TaskInfo:
        """Answers a worker."""
        ...

    async def sys_task_retry(self, task_id: int) -> TaskInfo:
        """The same task anew."""
        ...

    async def sys_task_ask(self, call_id: str, question: str, draft: str = "") -> str:
        """A worker's question."""
        ...

    async def sys_task_artifact(self, path: str) -> str:
        """Announces a file."""
        ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool gets beside its arguments.

    Attributes:
        files: the caller's files, with his credentials already applied.
        cwd: absolute path of the mount tree that relative paths start from.
        call_id: id of this call.
        search: grep and glob over them; None where there is no such seam.
        settings: the configuration's [tools] limits, keys as in TOOL_LIMITS.
        mountpoints: where the shell sees the tree, for the errors of paths that start there.
        idempotency_key: names this call in all the world, and is the same when it is run again
            after a crash: to be handed to services that take such keys.
        programs: runs programs in a sandbox; None where there is no such seam.
        agents: the system calls on agents and tasks; None where there are none.
    """

    files: ToolFiles
    cwd: str
    call_id: str
    search: Search | None = None
    settings: Mapping[str, int] = field(default_factory=dict)
    mountpoints: tuple[str, ...] = ()
    idempotency_key: str = ""
    programs: Programs | None = None
    agents: AgentCalls | None = None

    def path(self, path: str) -> str:
        """`path` made absolute from cwd; `/nexus/…` is the same as `/…`.

        Empty and `.` names are dropped; `..` stays, for what it means depends on symlinks.
        """
        return absolute(self.cwd, path)

    def limit(self, name: str) -> int:
        """The limit of that name in TOOL_LIMITS, as configured."""
        return self.settings.get(name, TOOL_LIMITS[name])


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of one call; success means no error. Warnings are of hooks."""

    tool_call_id: str
    name: str
    output: str | bytes
    error: str | None
    duration_ms: float
    warnings: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        """True when the tool did not fail."""
        return self.error is None

    def to_json(self) -> bytes:
        """The reply of a write to dispatch/<tool>: one JSON line; bytes decode with replacement."""
        output = self.output
        if isinstance(output, bytes):
            output = output.decode("utf-8", "replace")
        reply = {
            "tool_call_id": self.tool_call_id,
            "name": self.name,
            "output": output,
            "error": self.error,
            "success": self.success,
            "duration_ms": round(self.duration_ms, 3),
            **({"warnings": list(self.warnings)} if self.warnings else {}),
        }
        return json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


@dataclass(frozen=True, slots=True)
class Tool:
    """A registered tool.

    Attributes:
        name: `[a-z0-9_-]`, at most 64 characters.
        description: for people and for the model.
        input_schema: JSON Schema of the arguments object.
        output_schema: JSON Schema of the output, when it has one.
        annotations: MCP's hints: readOnlyHint, destructiveHint, idempotentHint, openWorldHint.
        run: called with the context and the arguments as keywords.
        timeout_s: the longest a call may take.
        labels: some of LABELS.
        fits: says quickly of arguments that they fit the schema; False is no verdict. None where
            only the schema can tell, see `with_quick_look`.
        model: of the arguments of a tool that is a typed function.
        function: the tool as a model provider wants it; `function_bytes` is its size as JSON.
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    run: Callable[..., Awaitable[str | bytes]]
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, bool] = field(default_factory=dict)
    timeout_s: float = DEFAULT_TIMEOUT_S
    labels: frozenset[str] = frozenset()
    fits: Callable[[dict[str, Any]], bool] | None = None
    model: type[BaseModel] | None = None
    function: dict[str, Any] = field(init=False)
    function_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Makes what each prompt has of the tool once."""
        function = {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.input_schema,
            },
        }
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "function_bytes", len(json.dumps(function)))

    @property
    def read_only(self) -> bool:
        """True when calls of it may run side by side."""
        return self.annotations.get("readOnlyHint", False)

    def repeatable(self, cwd: str, arguments: dict[str, Any]) -> bool:
        """True when an interrupted call with these arguments may simply be run again.

        A write is not when it goes to a control file: there it is a request, such as a spawn.
        `cwd` is where the call's relative paths start.
        """
        if self.read_only or not self.annotations.get("idempotentHint", False):
            return self.annotations.get("idempotentHint", False)
        path = absolute(cwd, str(arguments.get("path", "")))
        return ".." not in path.split("/") and not in_control_tree(path)

    def manual(self) -> dict[str, Any]:
        """What a fresh read of dispatch/<tool> shows, in MCP's shape."""
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": self.annotations,
            "labels": sorted(self.labels),
        }


def tool(  # noqa: PLR0913  each is a fact of its own
    *,
    name: str | None = None,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    labels: Collection[str] = (),
) -> Callable[[Callable[..., Awaitable[str | bytes]]], Tool]:
    """Makes a Tool of an async function `f(ctx, arg: type = default, …)`.

    The docstring is the description; Annotated[…, Field(description=…)] documents and bounds
    an argument. Unknown arguments are refused.
    """

    def make(run: Callable[..., Awaitable[str | bytes]]) -> Tool:
        model = arguments_model(run)
        return Tool(
            name=name or run.__name__,
            description=inspect.cleandoc(run.__doc__ or ""),
            input_schema=schema_of(model),
            run=_checked(run, model),
            annotations={
                "readOnlyHint": read_only,
                "destructiveHint": destructive,
                "idempotentHint": idempotent,
                "openWorldHint": open_world,
            },
            timeout_s=timeout_s,
            labels=frozenset(labels),
            model=model,
        )

    return make


def with_quick_look(tool: Tool) -> Tool:
    """The tool, its arguments checked by their types first, which takes a tenth of the time.

    Only for a tool whose types say all that its schema says, and in the same words: not with
    patterns, validators, or keywords that are in the schema alone.
    """
    assert tool.model is not None
    return replace(tool, fits=functools.partial(_fits, tool.model))


def _fits(model: type[BaseModel], arguments: dict[str, Any]) -> bool:
    """True for arguments that the model takes as they are."""
    try:
        model.__pydantic_validator__.validate_python(arguments, strict=True)
    except ValidationError:
        return False
    return True


def arguments_model(run: Callable[..., object]) -> type[BaseModel]:
    """A model of a function's parameters after the first, from its type hints."""
    hints = get_type_hints(run, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(run).parameters.values())[1:]:
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    return create_model("Args", __config__=ConfigDict(extra="forbid"), **fields)


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of the arguments, without the titles that pydantic adds."""
    schema = model.model_json_schema()
    schema.pop("title", None)
    for argument in schema.get("properties", {}).values():
        argument.pop("title", None)
    return schema


def _checked(
    run: Callable[..., Awaitable[str | bytes]], model: type[BaseModel]
) -> Callable[..., Awaitable[str | bytes]]:
    """`run` with its arguments as the types it declares: JSON's 5.0 is an int's 5."""

    @functools.wraps(run)
    async def checked(ctx: ToolContext, **arguments: Any) -> str | bytes:
        try:
            values = model(**arguments)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(["$", *map(str, first["loc"])])
            raise InvalidError(f"the argument {where} is not right: {first['msg']}") from None
        return await run(ctx, **{name: getattr(values, name) for name in model.model_fields})

    return checked


def absolute(cwd: str, path: str) -> str:
    """`path` made absolute from `cwd`; see `ToolContext.path`."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if path.startswith("/"):
        return "/" + "/".join(names[1:] if names[:1] == ["nexus"] else names)
    return f"{cwd.rstrip('/')}/{'/'.join(names)}" if names else cwd


def in_control_tree(path: str) -> bool:
    """True when an absolute path without `..` is one of the control trees or inside one."""
    return any(path == tree or path.startswith(f"{tree}/") for tree in CONTROL_TREES)


def new_call_id() -> str:
    """An id that no other call has: `call_` and 16 hex digits."""
    return f"call_{secrets.token_hex(8)}"
