"""What a spec may have, and how much of it."""

from typing import Any

import pytest

from nexusfs.contracts.agent import SCHEMA_BYTES, parse_spec
from nexusfs.contracts.errors import InvalidError


@pytest.mark.parametrize(
    "fields",
    [
        {"fallback_models": ["openai/x"] * 17},
        {"fallback_models": ["openai/" + "x" * 3_000_000]},
        {"fallback_models": "openai/x," * 99_000},
        {"tools": "a," * 2_000_000},
        {"output_schema": {"enum": ["x" * SCHEMA_BYTES]}},
    ],
)
def test_a_field_that_is_too_large_is_einval_and_named(fields: dict[str, Any]) -> None:
    (name,) = fields

    with pytest.raises(InvalidError, match=rf"\$\.{name}"):
        parse_spec({"task": "x", **fields})


@pytest.mark.parametrize(
    "fields", [{"fallback_models": ["a/b"] * 16}, {"fallback_models": "a/b, c/d"}]
)
def test_a_few_fallback_models_are_taken(fields: dict[str, Any]) -> None:
    assert parse_spec({"task": "x", **fields}).fallback_models[0] == "a/b"


def test_of_an_unknown_key_the_beginning_is_said() -> None:
    with pytest.raises(InvalidError, match="unknown key") as caught:
        parse_spec({"b" * (4 << 20): 1})

    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"task": "x", "name": "My Agent"}, r"\$\.name: write lower-case letters, digits and -"),
        ({"task": "x", "cwd": "work"}, r"\$\.cwd: write a path from the mount point"),
        ({"task": "x", "restore": "abc"}, r"\$\.restore: write the 64 hexadecimal digits"),
        ({"task": "x", "input": "y"}, r"\$\.input: another name of this field is there too"),
        ({"task": "x", "limits": {"turn": 1}}, r"\$\.limits\.turn: there is no such key here"),
        ({"task": "x", "rules": {"deny": ["exec(rm"]}}, r"'exec\(rm' never fits: write tool, or"),
    ],
)
def test_a_form_that_does_not_fit_is_told_in_words(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        parse_spec(raw)
