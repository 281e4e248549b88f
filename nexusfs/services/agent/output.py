"""The shape of an answer: `output_schema` is told to the model, and checked."""

import json
import re
from collections.abc import Callable
from typing import Any

from nexusfs.contracts.errors import InvalidError

ASKS_AGAIN = 2
"""How often a model is asked again for an answer of the right shape. Source: DESIGN.md, 3."""

OutputCheck = Callable[[dict[str, Any], Any], None]
"""(schema, value) → nothing, or InvalidError EINVAL with what is wrong."""


def schema_note(schema: dict[str, Any]) -> str:
    """What the model is told beforehand."""
    text = json.dumps(schema, ensure_ascii=False)
    return f"Your final answer must be one JSON value that fits this JSON Schema:\n{text}"


def ask_again(fault: str) -> str:
    """What the model is told when its answer does not fit."""
    return f"The answer does not fit: {fault}. Answer again, with the JSON value alone."


def checked_answer(text: str, schema: dict[str, Any], check: OutputCheck) -> str:
    """The answer as JSON text, without the fence that models like to put around it.

    Raises:
        InvalidError: EINVAL, it is no JSON or does not fit; says what is wrong.
    """
    fenced = re.fullmatch(r"\s*```\w*\s*\n(.*?)\n?\s*```\s*", text, re.S)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as exc:
        raise InvalidError(f"it is not JSON ({exc})") from None
    check(schema, value)
    return json.dumps(value, ensure_ascii=False)
