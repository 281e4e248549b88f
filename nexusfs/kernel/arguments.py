"""Arguments of tools: do they fit the tool's schema, and if not, what to write instead.

Concurrency: `_validators` is filled from the loop and from threads; a race compiles twice.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import trio

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.words import nearest
from nexusfs.kernel.requests import unknown_key_message

FEW_CHARS, FEW_VALUES = 64 * 1024, 500
"""Arguments with more than either are validated in a thread."""
MAX_VALUES = 100_000
"""Keys and values in one call; the same as in one request, see `strict_json`."""
ERRORS_LOOKED_AT = 100
"""The worst of so many is said: each costs 30 µs, and 300,000 values may each be wrong."""
MAX_VALIDATORS = 1000
"""Compiled schemas kept; more tools than that recompile."""

_validators: dict[int, tuple[dict[str, Any], Any]] = {}
"""id of a schema: (the schema, which keeps its id its own; its compiled validator)."""


def validate_arguments(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Returns when `arguments` fit the tool's schema (the same dict at each call: it is the key).

    The first call of a process imports jsonschema, 0.24 s.

    Raises:
        InvalidError: EINVAL; JSON path at fault, what is wrong, the nearest known key or the
            type that was expected. Also when the schema itself is broken.
    """
    _validate(_validator(schema), arguments)


def _validate(validator: Any, value: Any) -> None:
    try:
        errors = sorted(islice(validator.iter_errors(value), ERRORS_LOOKED_AT), key=_urgency)
    except Exception as exc:  # a broken schema of an MCP server, or a $ref that leads nowhere
        raise InvalidError(f"the tool's input schema cannot be used: {exc}") from exc
    if errors:
        raise InvalidError(_argument_message(errors[0]))


def validate_value(schema: dict[str, Any], value: Any) -> None:
    """Returns when any JSON value fits a schema of an agent's spec. InvalidError EINVAL.

    A hostile schema takes for ever: call it where it can be killed.
    """
    try:
        _validate(_compiled(schema), value)
    except InvalidError as exc:
        raise InvalidError(str(exc).replace("the argument ", "", 1)) from None


def check_schema(schema: dict[str, Any]) -> None:
    """InvalidError EINVAL for an output_schema that is no JSON Schema; as `validate_value`."""
    import jsonschema  # noqa: PLC0415  heavy, 0.24 s: the mount is ready before

    if not isinstance(schema.get("$schema", ""), str):
        raise InvalidError('$.output_schema["$schema"] must be a string, the address of a draft')
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise InvalidError(f"$.output_schema: {exc.message[:300]}") from None


async def validate_arguments_async(
    schema: dict[str, Any],
    arguments: dict[str, Any],
    fits: Callable[[dict[str, Any]], bool] | None = None,
) -> None:
    """`validate_arguments`, in a thread for large arguments and for the first call of all.

    Arguments of which `fits` is true are taken at its word: it takes a tenth of the time.

    InvalidError EINVAL too for more than MAX_VALUES. Cancelled, it lets the thread run out.
    """
    values, chars = _weight(arguments)
    if values > MAX_VALUES:
        raise InvalidError(f"more than {MAX_VALUES} keys and values in one call: use a file")
    few = values <= FEW_VALUES and chars <= FEW_CHARS
    if few and fits is not None and fits(arguments):
        return
    if few and "jsonschema" in sys.modules and id(schema) in _validators:
        validate_arguments(schema, arguments)
    else:
        await trio.to_thread.run_sync(validate_arguments, schema, arguments, abandon_on_cancel=True)


def _weight(arguments: dict[str, Any]) -> tuple[int, int]:
    """(keys and values, characters in them); not counted to the end over MAX_VALUES."""
    values = chars = 0
    ahead: list[Any] = [arguments]
    while ahead and values <= MAX_VALUES:
        one = ahead.pop()
        values += 1
        if isinstance(one, str):
            chars += len(one)
        elif isinstance(one, dict):
            values += len(one)
            chars += sum(map(len, one))
            ahead.extend(one.values())
        elif isinstance(one, list):
            ahead.extend(one)
    return values, chars


def _validator(schema: dict[str, Any]) -> Any:
    """The compiled validator of a tool's schema, from the cache or for it."""
    known = _validators.get(id(schema))
    if known is not None:
        return known[1]
    validator = _compiled(schema)
    if len(_validators) >= MAX_VALIDATORS:
        _validators.clear()
    _validators[id(schema)] = (schema, validator)
    return validator


def _compiled(schema: dict[str, Any]) -> Any:
    """A validator; `$ref` never leaves the schema, patterns run in linear time."""
    import jsonschema  # noqa: PLC0415  heavy, 0.24 s: the mount is ready before
    import referencing  # noqa: PLC0415  comes with jsonschema

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    linear = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # its stubs lack it
        kind, {"pattern": _pattern, "patternProperties": _pattern_properties}
    )
    return linear(schema, registry=referencing.Registry())


def _pattern(_validator: Any, pattern: str, value: object, _schema: object) -> Iterator[Any]:
    """The `pattern` keyword by RE2; a pattern that RE2 does not know is left to the tool."""
    import jsonschema  # noqa: PLC0415  heavy, already imported by _validator
    import re2  # noqa: PLC0415  a C++ library, 20 ms

    try:
        found = not isinstance(value, str) or re2.search(pattern, value) is not None
    except re2.error:
        return
    if not found:
        yield jsonschema.ValidationError(f"does not match the pattern {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], value: object, _schema: object
) -> Iterator[Any]:
    """The `patternProperties` keyword by RE2, as `_pattern`."""
    import re2  # noqa: PLC0415  a C++ library, 20 ms

    if not isinstance(value, dict):
        return
    for pattern, inner in patterns.items():
        try:
            fits = re2.compile(pattern)
        except re2.error:
            continue
        for key, one in value.items():
            if fits.search(key):
                yield from validator.descend(one, inner, path=key, schema_path=pattern)


def _urgency(error: Any) -> tuple[int, int]:
    """Unknown keys first: a misspelt key also makes a missing one. Then the outermost."""
    return (error.validator != "additionalProperties", len(error.absolute_path))


def _argument_message(error: Any) -> str:
    """One sentence for one jsonschema error."""
    where = _json_path(error.absolute_path)
    say = _MESSAGES.get(error.validator)
    if say is not None:
        return str(say(error, where))
    text = error.message if len(error.message) <= 300 else f"{error.message[:300]}…"
    return f"the argument {where} is not right: {text}"


def _unknown_message(error: Any, where: str) -> str:
    known = list(error.schema.get("properties", {}))
    key = next((key for key in error.instance if key not in known), "")
    return unknown_key_message(key, known, where)


def _missing_message(error: Any, where: str) -> str:
    key = next(key for key in error.validator_value if key not in error.instance)
    about = error.schema.get("properties", {}).get(key, {})
    kind = f", {_kinds(about['type'])}," if "type" in about else ""
    place = "" if where == "$" else f" at {where}"
    return f"the key {key!r}{kind} is missing{place}: it is required"


def _type_message(error: Any, where: str) -> str:
    got = _KINDS.get(type(error.instance), type(error.instance).__name__)
    shown = repr(error.instance)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    return f"the argument {where} must be {_kinds(error.validator_value)}, not {got} {shown}"


def _union_message(error: Any, where: str) -> str:
    """The anyOf of plain types, as pydantic writes `str | None`, said as one type error."""
    kinds = [one["type"] for one in error.validator_value if isinstance(one.get("type"), str)]
    if len(kinds) != len(error.validator_value):
        return f"the argument {where} fits none of the allowed forms: {error.message[:300]}"
    if _KINDS.get(type(error.instance), "").removeprefix("a ").removeprefix("an ") in kinds:
        return _argument_message(error.context[0])
    got = _KINDS.get(type(error.instance), type(error.instance).__name__)
    return f"the argument {where} must be {_kinds(kinds)}, not {got}"


def _enum_message(error: Any, where: str) -> str:
    known = [str(value) for value in error.validator_value]
    near = nearest(str(error.instance)[:100], known)
    hint = f"did you mean {near!r}?" if near else f"write one of {', '.join(known)}"
    return f"the argument {where} cannot be {str(error.instance)[:100]!r}: {hint}"


_MESSAGES = {
    "additionalProperties": _unknown_message,
    "required": _missing_message,
    "type": _type_message,
    "anyOf": _union_message,
    "enum": _enum_message,
}
_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _kinds(kinds: str | list[str]) -> str:
    """`a string or null` for the `type` of a schema."""
    names = [kinds] if isinstance(kinds, str) else kinds
    shown = [kind if kind == "null" else _with_article(kind) for kind in names]
    return " or ".join(shown)


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aio" else f"a {kind}"


def _json_path(parts: Iterable[str | int]) -> str:
    """`$.a[2]["b c"]`."""
    shown = ["$"]
    for part in parts:
        if isinstance(part, int):
            shown.append(f"[{part}]")
        else:
            plain = re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", part)
            shown.append(f".{part}" if plain else f"[{part[:100]!r}]")
    return "".join(shown)
