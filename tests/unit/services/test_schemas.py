"""Schemas that take for ever, or are none, and the process that checks them."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from nexusfs.boot.schema_process import COMMAND
from nexusfs.contracts.errors import InvalidError, UnavailableError
from nexusfs.services.agent.output import answer_value
from nexusfs.services.schemas import SchemaChecks
from tests.kernel_fixture import ROOT, processor_time
from tests.unit.services.running import world

ALICE_UID, BOB_UID = 1000, 1001


def doubling(levels: int) -> dict[str, Any]:
    """A schema that takes 2 ** levels steps."""
    defs: dict[str, Any] = {"a0": {"type": "object"}}
    for level in range(1, levels + 1):
        defs[f"a{level}"] = {"allOf": [{"$ref": f"#/$defs/a{level - 1}"}] * 2}
    return {"$defs": defs, "$ref": f"#/$defs/a{levels}"}


@contextlib.asynccontextmanager
async def checks() -> AsyncIterator[SchemaChecks]:
    async with trio.open_nursery() as nursery:
        found = SchemaChecks(COMMAND)
        await nursery.start(found.run)
        yield found
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_check_that_would_take_for_ever_is_ended_and_the_next_is_made() -> None:
    async with checks() as schemas:
        with pytest.raises(InvalidError, match="write a simpler schema"):
            await schemas.check_answer(doubling(64), "{}", ALICE_UID)

        assert await schemas.check_answer({"type": "object"}, '{"a":  1}', ALICE_UID) == '{"a": 1}'
        assert schemas.starts == 2


@pytest.mark.slow
async def test_others_go_on_while_an_answer_is_checked(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        bomb = await w.play({"content": "{}"}, output_schema=doubling(64), max_turns=1)
        other = await w.play({"content": "done"})

        assert (await w.end_of(other)).exit_code == 0
        assert not bomb.state.ended
        await w.calls.sys_proc_kill(ROOT, bomb.pid)


@pytest.mark.slow
async def test_a_user_waits_for_one_check_of_another_at_most() -> None:
    order: list[str] = []

    async def check(schemas: SchemaChecks, levels: int, uid: int) -> None:
        with contextlib.suppress(InvalidError):
            await schemas.check_answer(doubling(levels), "{}", uid)
        order.append("bomb" if levels > 9 else "small")

    async with checks() as schemas, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(check, schemas, 64, ALICE_UID)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(check, schemas, 1, BOB_UID)
        while "small" not in order:
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()

    assert order == ["bomb", "small"]


@pytest.mark.slow
async def test_a_pattern_of_names_is_matched_in_linear_time() -> None:
    schema = {"patternProperties": {"^(a+)+$": {"type": "string"}}}
    async with checks() as schemas:
        fits = await schemas.check_answer(schema, json.dumps({"a" * 5000 + "!": 1}), ALICE_UID)
        assert len(fits) > 5000
        with pytest.raises(InvalidError, match="must be a string"):
            await schemas.check_answer(schema, json.dumps({"aaa": 1}), ALICE_UID)


@pytest.mark.slow
async def test_a_check_that_is_cancelled_leaves_no_answer_for_the_next() -> None:
    async with checks() as schemas:
        await schemas.check_schema({}, ALICE_UID)
        with trio.move_on_after(0):
            await schemas.check_answer({}, '"first"', ALICE_UID)

        assert await schemas.check_answer({}, '"second"', ALICE_UID) == '"second"'


@pytest.mark.slow
async def test_nothing_is_checked_any_more_when_the_kernel_is_going() -> None:
    async with checks() as schemas:
        await schemas.check_schema({}, ALICE_UID)

    with pytest.raises(UnavailableError):
        await schemas.check_schema({}, ALICE_UID)


@pytest.mark.slow
@pytest.mark.parametrize(
    "schema", [{"$schema": ["x"]}, {"properties": {f"a{i}": {} for i in range(10_000)}}]
)
async def test_a_schema_that_cannot_be_used_is_einval_at_spawn(
    tmp_path: Path, schema: dict[str, Any]
) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(InvalidError, match="output_schema"):
            await w.play(output_schema=schema)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1", 1),
        ("```\n1\n```", 1),
        ("  ```json\n{}\n```  \n", {}),
        ('```JSON_5 \n"a ``` b"```', "a ``` b"),
    ],
)
def test_the_fence_around_an_answer_is_taken_off(answer: str, value: object) -> None:
    assert answer_value(answer) == value


@pytest.mark.parametrize(
    "answer", ["``````", "```", "```\n" + "\n" * 100_000 + "x", "```a b\n1\n```"]
)
def test_a_fence_that_is_none_is_no_json_and_takes_no_time(answer: str) -> None:
    with processor_time(5), pytest.raises(InvalidError, match="not JSON"):
        answer_value(answer)
