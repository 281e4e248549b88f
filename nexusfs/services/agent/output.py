"""The shape of an answer: `output_schema` is told to the model, and checked."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from nexusfs.contracts.errors import InvalidError

ASKS_AGAIN = 2
"""How often a model is asked again for an answer of the right shape. Source: DESIGN.md, 3."""

OutputCheck = Callable[[dict[str, Any], str, int], Awaitable[str]]
"""(schema, answer, uid of the agent) → the answer as JSON text, or InvalidError EINVAL."""
FENCE = "```"


def schema_note(schema: dict[str, Any]) -> str:
    """What the model is told beforehand."""
    text = json.dumps(schema, ensure_ascii=False)
    return f"Your final answer must be one JSON value that fits this JSON Schema:\n{text}"


def ask_again(fault: str) -> str:
    """What the model is told when its answer does not fit."""
    return f"The answer does not fit: {fault}. Answer again, with the JSON value alone."


def answer_value(text: str) -> Any:
    """The JSON value of an answer, without the fence that models like to put around it.

    InvalidError EINVAL, it is no JSON.
    """
    try:
        return json.loads(_unfenced(text.strip()))
    except (ValueError, RecursionError) as exc:
        raise InvalidError(f"it is not JSON ({exc})") from None


def _unfenced(text: str) -> str:
    if not (text.startswith(FENCE) and text.endswith(FENCE)):
        return text
    language, _, body = text.removeprefix(FENCE).partition("\n")
    fits = not language.strip() or language.strip().replace("_", "a").isalnum()
    return body.removesuffix(FENCE) if fits else text
