"""What a tool's quick look takes, its schema takes too: nothing gets past the schema."""

from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.tool import ToolContext, tool
from nexusfs.kernel.arguments import validate_arguments, validate_arguments_async
from nexusfs.services.tools import BUILTIN

WORDS = st.sampled_from(["", "x", "/x", "5", "true", "all", "any", "approve", "a\0b", "é"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 200) | st.floats(allow_nan=False) | WORDS
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "string": WORDS,
    "integer": st.integers(-3, 200) | st.just(5.0),
    "number": st.integers(0, 100) | st.floats(0, 1e6),
    "boolean": st.booleans(),
    "null": st.none(),
}


def likely(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that have the type which a schema asks for, and its bounds or not."""
    if "anyOf" in schema:
        return st.one_of([likely(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "array":
        return st.lists(likely(schema.get("items", {})), max_size=3)
    if "properties" in schema:
        return st.fixed_dictionaries({n: likely(s) for n, s in schema["properties"].items()})
    return BY_TYPE.get(schema.get("type", ""), ANY)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """A built-in tool, and arguments that mostly fit it: one of them may be anything."""
    chosen = draw(st.sampled_from(BUILTIN))
    known = chosen.input_schema.get("properties", {})
    names = {*chosen.input_schema.get("required", []), *draw(st.sets(st.sampled_from([*known])))}
    arguments = {name: draw(likely(known[name])) for name in sorted(names)}
    if draw(st.integers(0, 3)) == 0:
        arguments[draw(st.sampled_from([*known, "unknown"]))] = draw(ANY)
    return chosen, arguments


@settings(max_examples=600)
@given(calls())
def test_what_fits_is_valid(call: tuple[Any, dict[str, Any]]) -> None:
    chosen, arguments = call

    if chosen.fits(arguments):
        validate_arguments(chosen.input_schema, arguments)


def test_plain_calls_fit() -> None:
    by_name = {one.name: one for one in BUILTIN}

    assert by_name["read_file"].fits is not None
    assert by_name["read_file"].fits({"path": "/x", "offset": 3})
    assert not by_name["read_file"].fits({"path": "/x", "offset": "3"})
    assert not by_name["read_file"].fits({"path": "/x", "ofset": 3})


async def test_a_tool_of_others_is_checked_by_its_schema_alone() -> None:
    @tool()
    async def deploy(
        ctx: ToolContext,
        where: Annotated[str, Field(json_schema_extra={"enum": ["test", "stage"]})],
    ) -> str:
        """Its schema says more than its types."""
        return where

    assert deploy.fits is None
    with pytest.raises(InvalidError, match="write one of test, stage"):
        await validate_arguments_async(deploy.input_schema, {"where": "production"}, deploy.fits)
