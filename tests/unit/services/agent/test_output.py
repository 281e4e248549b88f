"""Answers of a given shape: asked for, checked, asked for again."""

import json
from pathlib import Path
from typing import Any

import pytest

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.model import ScriptedModel
from nexusfs.kernel.proc.process import Process
from nexusfs.services.agent.loop import agent_step
from tests.kernel_fixture import ALICE, BareDispatcher, says, spec
from tests.unit.services.running import call, events, world

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


async def answered(tmp_path: Path, *answers: str, **fields: Any) -> tuple[int, str, str, list[str]]:
    """(exit code, reason, result, what the model was told again) of an agent that says these."""
    async with world(tmp_path) as w:
        turns = [{"content": answer} for answer in answers]
        agent = await w.play(*turns, output_schema=SCHEMA, **fields)
        status = await w.end_of(agent)
        told = [event["message"]["content"] for event in events(agent, "notice")]
        return status.exit_code, status.reason, agent.result, told


async def test_an_answer_that_fits_is_the_result_as_json(tmp_path: Path) -> None:
    assert await answered(tmp_path, '{"n":  1}') == (0, "done", '{"n": 1}', [])


async def test_a_fence_around_the_answer_is_taken_off(tmp_path: Path) -> None:
    code, _, result, told = await answered(tmp_path, '```json\n{"n": 1}\n```')

    assert (code, result, told) == (0, '{"n": 1}', [])


async def test_an_answer_that_does_not_fit_is_asked_for_again_with_what_is_wrong(
    tmp_path: Path,
) -> None:
    code, _, result, told = await answered(tmp_path, "I think 1", '{"n": "1"}', '{"n": 1}')

    assert (code, result) == (0, '{"n": 1}')
    assert "it is not JSON" in told[0]
    assert "$.n must be an integer, not a string '1'" in told[1]


async def test_after_two_times_the_agent_fails_and_says_why(tmp_path: Path) -> None:
    code, reason, result, told = await answered(tmp_path, "a", "b", "c", '{"n": 1}')

    assert (code, result, len(told)) == (1, "c", 2)
    assert reason.startswith("the answer does not fit output_schema: it is not JSON")


async def test_the_model_is_told_the_schema_beforehand() -> None:
    model = ScriptedModel(says('{"n": 1}'))
    process = Process(
        2,
        1,
        ALICE.as_agent(2),
        spec(output_schema=SCHEMA, instructions="be brief"),
        lambda *_: None,
    )
    process.record("state", **{"from": "created", "to": "running"})
    process.post("go", "task")

    await agent_step(process, model, BareDispatcher())

    system = model.calls[0].messages[0]["content"]
    assert system.startswith("be brief\n\n") and json.dumps(SCHEMA) in system


async def test_a_schema_that_is_none_is_einval_at_spawn(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(InvalidError, match=r"\$.output_schema"):
            await w.play(output_schema={"type": "nothing of the kind"})


async def test_turns_with_tools_are_not_checked(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        turns = [{"content": "let me look", **call("list_dir", path="/")}, {"content": '{"n": 2}'}]
        agent = await w.play(*turns, output_schema=SCHEMA)

        assert (await w.end_of(agent)).exit_code == 0
        assert json.loads(agent.result) == {"n": 2}
