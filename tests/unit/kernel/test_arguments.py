"""Arguments against the schema of a tool."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nexusfs.contracts.errors import InvalidError
from nexusfs.kernel import arguments as kernel_arguments
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


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "/" + "x" * 70_000},
        {"path": "/x", "many": [1] * 1000},
        {"path": "/x", "k" * 70_000: 1},
    ],
)
async def test_large_arguments_are_validated_in_a_thread(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def validate(*_: object) -> None:
        threads.append(threading.get_ident())

    await validate_arguments_async(SCHEMA, {"path": "/x"})  # compiled
    monkeypatch.setattr(kernel_arguments, "validate_arguments", validate)
    await validate_arguments_async(SCHEMA, {"path": "/x"})
    await validate_arguments_async(SCHEMA, arguments)

    assert (threads[0] == threading.get_ident(), threads[1] == threading.get_ident()) == (
        True,
        False,
    )


async def test_more_values_than_a_request_may_have_are_refused() -> None:
    with pytest.raises(InvalidError, match="more than 100000"):
        await validate_arguments_async(SCHEMA, {"path": "/x", "many": [[1] * 60_000] * 2})


def test_of_many_errors_the_first_are_looked_at() -> None:
    seen = 0

    class Counted(list[int]):
        def __iter__(self) -> Iterator[int]:
            nonlocal seen
            for one in super().__iter__():
                seen += 1
                yield one

    schema = {"properties": {"many": {"items": {"type": "string"}}}}

    assert "must be a string" in fault({"many": Counted([1] * 100_000)}, schema)
    assert seen < 1000
