"""Tools as functions, contexts and results."""

import json
from typing import Annotated

import pytest
from pydantic import Field

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.tool import ToolContext, ToolResult, in_control_tree, tool
from tests.contract.host_files import HostFiles


@tool(read_only=True, timeout_s=5)
async def repeat(
    ctx: ToolContext,
    text: Annotated[str, Field(description="What to say.")],
    times: Annotated[int, Field(ge=1)] = 2,
) -> str:
    """Say a text again.

    Returns it.
    """
    return text * times


@pytest.fixture
def ctx(tmp_path: object) -> ToolContext:
    return ToolContext(HostFiles(tmp_path), "/home/a", "call_1")  # type: ignore[arg-type]  # a Path


def test_the_manual_comes_from_the_function() -> None:
    manual = repeat.manual()

    assert manual["name"] == "repeat"
    assert manual["description"] == "Say a text again.\n\nReturns it."
    assert manual["annotations"]["readOnlyHint"] is True
    assert manual["inputSchema"] == {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to say."},
            "times": {"type": "integer", "minimum": 1, "default": 2},
        },
        "required": ["text"],
        "additionalProperties": False,
    }


async def test_arguments_have_the_declared_types(ctx: ToolContext) -> None:
    assert await repeat.run(ctx, text="x", times=3.0) == "xxx"
    assert await repeat.run(ctx, text="x") == "xx"


async def test_arguments_that_do_not_fit_are_invalid(ctx: ToolContext) -> None:
    with pytest.raises(InvalidError, match=r"\$\.times"):
        await repeat.run(ctx, text="x", times=0)


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("x", "/home/a/x"),
        (".", "/home/a"),
        ("", "/home/a"),
        ("./x//y/", "/home/a/x/y"),
        ("../x", "/home/a/../x"),
        ("/x", "/x"),
        ("/", "/"),
        ("/nexus", "/"),
        ("/nexus/proc/7", "/proc/7"),
        ("/nexusx", "/nexusx"),
    ],
)
def test_a_path_is_absolute_in_the_mount(ctx: ToolContext, path: str, absolute: str) -> None:
    assert ctx.path(path) == absolute


def test_limits_are_the_configured_ones_or_the_defaults(ctx: ToolContext) -> None:
    assert ctx.limit("grep_hits") == 50
    assert ToolContext(ctx.files, "/", "c", None, {"grep_hits": 7}).limit("grep_hits") == 7


def test_control_trees_are_told_by_whole_names() -> None:
    assert in_control_tree("/proc/spawn")
    assert in_control_tree("/sys")
    assert not in_control_tree("/process")


def test_a_result_is_one_json_line() -> None:
    line = ToolResult("call_1", "repeat", b"caf\xe9\n", None, 1.23456).to_json()

    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "tool_call_id": "call_1",
        "name": "repeat",
        "output": "caf\ufffd\n",
        "error": None,
        "success": True,
        "duration_ms": 1.235,
    }
