"""Arguments against the schema of a tool."""

from typing import Any

import pytest

from nexusfs.contracts.errors import InvalidError
from nexusfs.kernel.arguments import validate_arguments, validate_arguments_async

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "limit": {"type": "integer", "minimum": 1},
        "include": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "mode": {"enum": ["read", "write"]},
        "word": {"type": "string", "pattern": "^(a+)+$"},
        "edits": {"type": "array", "items": {"type": "object", "required": ["old"]}},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def fault(arguments: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> str:
    with pytest.raises(InvalidError) as caught:
        validate_arguments(schema, arguments)
    return str(caught.value)


def test_arguments_that_fit_are_silent() -> None:
    validate_arguments(SCHEMA, {"path": "/x", "limit": 3, "include": None})


def test_a_wrong_type_names_path_and_types() -> None:
    assert fault({"path": 7}) == "the argument $.path must be a string, not an integer 7"


def test_an_unknown_key_names_the_nearest() -> None:
    assert fault({"pth": "/x"}) == "unknown key 'pth': did you mean 'path'?"


def test_a_missing_key_names_its_type() -> None:
    assert fault({}) == "the key 'path', a string, is missing: it is required"


def test_a_union_names_all_types() -> None:
    assert "$.include must be a string or null, not an integer" in fault(
        {"path": "/x", "include": 3}
    )


def test_an_enum_names_the_nearest_value() -> None:
    assert "did you mean 'write'" in fault({"path": "/x", "mode": "wirte"})


def test_a_bound_is_said() -> None:
    assert "minimum" in fault({"path": "/x", "limit": 0})


def test_a_place_inside_a_list_is_a_json_path() -> None:
    assert "at $.edits[1]" in fault({"path": "/x", "edits": [{"old": "a"}, {}]})


def test_a_hostile_pattern_takes_linear_time() -> None:
    assert "pattern" in fault({"path": "/x", "word": "a" * 5000 + "b"})


def test_a_reference_to_the_network_is_refused() -> None:
    schema = {"$ref": "http://localhost:1/schema.json"}

    assert "schema cannot be used" in fault({}, schema)


async def test_large_arguments_are_validated_in_a_thread() -> None:
    await validate_arguments_async(SCHEMA, {"path": "/x"}, 100_000)

    with pytest.raises(InvalidError):
        await validate_arguments_async(SCHEMA, {"path": 1}, 10)
