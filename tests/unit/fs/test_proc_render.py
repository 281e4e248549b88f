"""What files of proc/<pid>/ say."""

import json
import sys
from types import FrameType

import pytest

from nexusfs.fs.proc_render import as_json


@pytest.mark.parametrize(
    "value", [{}, [], {"a": [1, True, None, 0.5, "é\u2028"], "b": {"c": [[], [{}]]}}, "\ud800"]
)
def test_json_for_people_has_two_spaces(value: object) -> None:
    said = json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace")

    assert as_json(value) == said + b"\n"


def test_a_large_value_is_rendered_without_a_step_of_python_for_each_part() -> None:
    steps = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        as_json({"metadata": {"a": [0] * 99_000}})
    finally:
        sys.setprofile(None)

    assert steps < 100
