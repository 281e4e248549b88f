"""offline/echo and offline/script."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import ModelError
from nexusfs.services.llm import offline
from nexusfs.services.llm.offline import OfflineModels


def write(path: Path, turns: Any) -> str:
    path.write_text(json.dumps(turns))
    return f"offline/script:{path}"


async def played(tmp_path: Path, calls: Any, observer: Any) -> tuple[OfflineModels, str]:
    """Models that have played the script s.json just now, which says `old`; and its model."""
    models, model = OfflineModels(), write(tmp_path / "s.json", [{"content": "old"}])
    await models.complete(calls.of("x", model), observer)
    return models, model


async def test_echo_repeats_the_last_user_message(calls: Any, observer: Any) -> None:
    reply = await OfflineModels().complete(calls.of("hello there", "offline/echo"), observer)

    assert reply.message == {"role": "assistant", "content": "hello there"}
    assert observer.pieces == ["hello ", "there"]
    assert reply.usage.cost_usd == 0.0
    assert reply.usage.input_tokens == reply.usage.output_tokens == 2


async def test_a_script_plays_tool_calls_as_a_provider_sends_them(
    tmp_path: Path, calls: Any, observer: Any
) -> None:
    model = write(
        tmp_path / "s.json", [{"tool_calls": [{"name": "ls", "arguments": {"path": "/"}}]}]
    )

    reply = await OfflineModels().complete(calls.of("x", model), observer)

    function = reply.message["tool_calls"][0]["function"]
    assert function == {"name": "ls", "arguments": '{"path":"/"}'}
    assert reply.message["content"] is None


async def test_a_delay_is_waited_for(
    tmp_path: Path, calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    model = write(tmp_path / "s.json", [{"content": "a b", "delay_s": 30, "token_delay_s": 5}])
    start = trio.current_time()

    await OfflineModels().complete(calls.of("x", model), observer)

    assert trio.current_time() - start == pytest.approx(40)


async def test_an_error_with_times_ends_after_them(
    tmp_path: Path, calls: Any, observer: Any
) -> None:
    model = write(tmp_path / "s.json", [{"status": 503, "times": 1, "content": "now"}])
    models = OfflineModels()

    with pytest.raises(ModelError) as caught:
        await models.complete(calls.of("x", model), observer)
    reply = await models.complete(calls.of("x", model), observer)

    assert (caught.value.kind, caught.value.retryable) == ("server", True)
    assert reply.message["content"] == "now"


async def test_a_cut_gives_its_text_and_then_fails(
    tmp_path: Path, calls: Any, observer: Any
) -> None:
    model = write(tmp_path / "s.json", [{"content": "a b c", "cut_after": 2}])

    with pytest.raises(ModelError, match="cut") as caught:
        await OfflineModels().complete(calls.of("x", model), observer)

    assert observer.pieces == ["a ", "b "]
    assert caught.value.kind == "cut"


async def test_a_changed_script_is_read_again(
    tmp_path: Path, calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    models, model = await played(tmp_path, calls, observer)

    write(tmp_path / "s.json", [{"content": "newer"}])
    await trio.sleep(1)
    reply = await models.complete(calls.of("x", model), observer)

    assert reply.message["content"] == "newer"


async def test_one_looks_at_a_script_for_all_who_want_it_at_once(
    tmp_path: Path, calls: Any, observer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    real = offline._read_script

    def look(path: str, known: Any) -> Any:
        looks.append(path)
        return real(path, known)

    monkeypatch.setattr(offline, "_read_script", look)
    models, model = await played(tmp_path, calls, observer)
    monkeypatch.setattr(offline, "RECHECK_S", 60.0)
    models._scripts[model.partition(":")[2]].checked -= offline.RECHECK_S

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(models.complete, calls.of("x", model), observer)

    assert len(looks) == 2


@pytest.mark.parametrize(
    ("become", "said"), [('[{"content": "newer"}]', "newer"), ("{", "error"), (None, "error")]
)
async def test_all_who_come_at_once_play_the_script_as_it_is_now(
    tmp_path: Path, calls: Any, observer: Any, become: str | None, said: str,
    autojump_clock: trio.testing.MockClock,
) -> None:  # fmt: skip
    models, model = await played(tmp_path, calls, observer)
    heard = []
    (tmp_path / "s.json").unlink()
    if become is not None:
        (tmp_path / "s.json").write_text(become)
    await trio.sleep(1)

    async def play() -> None:
        try:
            reply = await models.complete(calls.of("x", model), observer)
        except ModelError:
            heard.append("error")
        else:
            heard.append(reply.message["content"])

    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(play)
    await play()

    assert heard == [said] * 10


async def test_a_look_that_is_cancelled_leaves_the_next_to_look(
    tmp_path: Path, calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    models, model = await played(tmp_path, calls, observer)
    write(tmp_path / "s.json", [{"content": "newer"}])
    await trio.sleep(1)

    with trio.move_on_after(0):
        await models.complete(calls.of("x", model), observer)
    reply = await models.complete(calls.of("x", model), observer)

    assert reply.message["content"] == "newer"


@pytest.mark.parametrize("path", ["/nowhere/s.json", "/dev/zero", "/", "a\0b"])
async def test_a_path_that_is_no_script_is_a_model_error(
    path: str, calls: Any, observer: Any
) -> None:
    with pytest.raises(ModelError) as caught:
        await OfflineModels().complete(calls.of("x", f"offline/script:{path}"), observer)

    assert caught.value.kind == "not_found"
