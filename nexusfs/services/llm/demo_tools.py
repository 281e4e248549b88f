"""How offline/demo picks a tool and fills in its arguments: by names, then by the schema."""

import re
from typing import Any

from nexusfs.services.llm.demo_plan import Step

_TOOL_NAMES: dict[str, tuple[str, ...]] = {
    "list": ("list_dir", "ls", "list_directory", "list"),
    "read": ("read_file", "read", "cat"),
    "search": ("grep", "search", "search_files"),
    "glob": ("glob", "find_files", "find"),
    "write": ("write_file", "write", "save"),
    "run": ("exec", "bash", "shell", "run"),
    "delegate": ("delegate",),
    "collect": ("collect",),
}
_PATH_NAMES = ("path", "file_path", "filename", "file", "directory", "dir", "folder", "root", "cwd")
_TEXT_NAMES: dict[str, tuple[str, ...]] = {
    "search": ("pattern", "query", "regex", "text", "needle"),
    "glob": ("pattern", "glob", "query"),
    "write": ("content", "text", "data", "contents", "body"),
    "run": ("command", "cmd", "script", "code", "argv"),
}
_PATH = re.compile(r"^(?P<path>/?[\w.@+\-][\w.@+\-/ ]*?)(?::\d+:|:\s|$)")


def find_tool(verb: str, tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The function {name, parameters} for a verb: by its usual names, else by a part of a name."""
    functions: dict[str, dict[str, Any]] = {
        tool["function"]["name"]: tool["function"] for tool in tools
    }
    names = _TOOL_NAMES.get(verb, ())
    for name in names:
        if name in functions:
            return functions[name]
    ends = (name for name in functions if re.split(r"__|\.", name)[-1] in names)
    found = next(ends, None)
    return functions[found] if found else None


def arguments_for(tool: dict[str, Any], step: Step, target: str | None) -> dict[str, Any] | None:
    """The arguments object; None when a required one stays unknown."""
    schema = tool.get("parameters") or {}
    properties: dict[str, Any] = schema.get("properties") or {}
    arguments: dict[str, Any] = {}
    path_name = next((name for name in _PATH_NAMES if name in properties), None)
    if path_name and target is not None:
        arguments[path_name] = target
    text_name = next((name for name in _TEXT_NAMES.get(step.verb, ()) if name in properties), None)
    if text_name:
        wants_list = properties[text_name].get("type") == "array"
        text = _pattern(step.text) if step.verb == "search" else step.text
        arguments[text_name] = ["sh", "-c", text] if wants_list else text
    required = set(schema.get("required") or ())
    if path_name and path_name in required - arguments.keys() and step.verb != "write":
        arguments[path_name] = "."
    return arguments if required <= arguments.keys() else None


def _pattern(text: str) -> str:
    """The text as a pattern: itself when it is one, else quoted."""
    try:
        re.compile(text)
    except re.error:
        return re.escape(text)
    return text


def paths_in(result: str) -> list[str]:
    """Paths in a tool's result, each once: `path:line: text` of grep, or one path a line."""
    found: dict[str, None] = {}
    for line in result.splitlines():
        match = _PATH.match(line.strip())
        if match and ("/" in match["path"] or "." in match["path"]):
            found[match["path"]] = None
    return list(found)


def files_in(listing: str, directory: str) -> list[str]:
    """Paths of the files of a listing: one a line, `name/` a directory, size after a tab."""
    names = (line.split("\t")[0] for line in listing.splitlines())
    kept = (name for name in names if name and not name.endswith(("/", "@", "]")))
    return [f"{directory.rstrip('/')}/{name}" for name in kept]
