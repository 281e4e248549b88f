"""How deep a value is."""

from typing import Any

import pytest

from nexusfs.contracts.nesting import MAX_DEPTH, is_too_deep


def nested(levels: int, *, lists: bool) -> Any:
    value: Any = {} if not lists else []
    for _ in range(levels - 1):
        value = [value] if lists else {"k": value}
    return value


@pytest.mark.parametrize("lists", [False, True])
def test_as_many_levels_as_there_may_be_pass_and_one_more_does_not(*, lists: bool) -> None:
    assert not is_too_deep(nested(MAX_DEPTH, lists=lists))
    assert is_too_deep(nested(MAX_DEPTH + 1, lists=lists))


def test_a_plain_value_has_no_level() -> None:
    assert not is_too_deep("x", 0)
    assert is_too_deep([], 0)


def test_a_value_deeper_than_the_interpreter_goes_is_too_deep() -> None:
    assert is_too_deep(nested(1_000_000, lists=True))
