"""A copilot's loop: what is in its prompts, by delivery policy, and when it goes on."""

from pathlib import Path
from typing import Any

import trio

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.model import Message, ModelCall, ModelObserver, ModelReply, Quote, Usage
from nexusfs.contracts.task import NEWS_HEADING
from tests.kernel_fixture import ALICE, booted, check_history, says, spec, until, wants, wish

WORKER = {"name": "wright", "tools": ["ask"]}


class Stage:
    """Plays the copilot from a script; a worker does what its message says when it may.

    `prompts` are those of the copilot, each as the texts of its user messages.
    """

    def __init__(self, *script: Message) -> None:
        self.script = list(script)
        self.prompts: list[list[str]] = []
        self.curtain = trio.Event()
        self.at_model = trio.Event()

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        check_history(call.messages)
        texts = [str(m["content"]) for m in call.messages if m["role"] == "user"]
        if texts[0] == "lead":
            self.prompts.append(texts)
            if len(self.prompts) == 2:
                self.at_model.set()
                await self.curtain.wait()
            return ModelReply(self.script.pop(0), Usage(), call.model)
        return ModelReply(says(f"done: {texts[0]}"), Usage(), call.model)

    async def quote(self, call: ModelCall) -> Quote:
        return Quote(call.model, 0)

    def available(self) -> list[dict[str, Any]]:
        return []


def give(message: str, delivery: str) -> dict[str, Any]:
    return wish("d", "delegate", message=message, worker=WORKER, delivery=delivery)


async def lead(kernel: Kernel, stage: Stage, mode: str = "oneshot") -> int:
    """Runs the copilot until its worker has ended while its own second turn was under way."""
    info = await kernel.syscalls.sys_proc_spawn(ALICE, spec(task="lead", mode=mode, name="boss"))
    await stage.at_model.wait()
    (worker,) = kernel.syscalls.tasks.workers(ALICE, info.pid)
    await worker.has_ended()
    stage.curtain.set()
    return info.pid


def news(prompt: list[str]) -> list[str]:
    return [text for text in prompt if text.startswith(NEWS_HEADING)]


async def test_immediate_news_are_in_the_next_prompt_of_a_copilot_that_was_about_to_end(
    tmp_path: Path,
) -> None:
    stage = Stage(wants(give("a", "immediate")), says("I am done"), says("no: now I am"))
    async with booted(tmp_path / "s", stage) as kernel:
        pid = await lead(kernel, stage)
        status = await kernel.syscalls.sys_proc_wait(ALICE, pid, 10)

    assert status.exit_code == 0
    (text,) = news(stage.prompts[2])
    assert "wright) is completed (done):\ndone: a" in text
    assert stage.script == []


async def test_deferred_news_do_not_keep_a_copilot_from_its_end(tmp_path: Path) -> None:
    stage = Stage(wants(give("a", "deferred")), says("I am done"))
    async with booted(tmp_path / "s", stage) as kernel:
        pid = await lead(kernel, stage)
        await kernel.syscalls.sys_proc_wait(ALICE, pid, 10)

    assert [news(prompt) for prompt in stage.prompts] == [[], []]


async def test_deferred_news_come_with_the_next_message_of_a_chat(tmp_path: Path) -> None:
    stage = Stage(wants(give("a", "deferred")), says("waiting"), says("I see"))
    async with booted(tmp_path / "s", stage) as kernel:
        pid = await lead(kernel, stage, "chat")
        process = kernel.processes.get(pid)
        await until(lambda: process.wchan == "message")
        await kernel.syscalls.sys_proc_send(ALICE, pid, "and now?")
        await until(lambda: len(stage.prompts) == 3)

    assert stage.prompts[2][1] == "and now?"
    assert len(news(stage.prompts[2])) == 1


async def test_immediate_news_wake_a_chat_that_waits(tmp_path: Path) -> None:
    stage = Stage(wants(give("a", "immediate")), says("waiting"), says("I see"))
    async with booted(tmp_path / "s", stage) as kernel:
        await lead(kernel, stage, "chat")
        await until(lambda: len(stage.prompts) == 3)

    assert len(news(stage.prompts[2])) == 1


async def test_on_demand_nothing_is_in_a_prompt_until_it_is_collected(tmp_path: Path) -> None:
    stage = Stage(wants(give("a", "on_demand")), wants(wish("c", "collect")), says("I have it"))
    async with booted(tmp_path / "s", stage) as kernel:
        pid = await lead(kernel, stage)
        await kernel.syscalls.sys_proc_wait(ALICE, pid, 10)
        collected = kernel.processes.get(pid).transcript[-2]["content"]

    assert [news(prompt) for prompt in stage.prompts] == [[], [], []]
    assert '"result": "done: a"' in collected


async def test_news_do_not_give_a_copilot_more_turns(tmp_path: Path) -> None:
    turns = [wants(give("a", "immediate")), *[wants(wish("l", "list_dir"))] * 3, says("so far")]
    stage = Stage(*turns)
    async with booted(tmp_path / "s", stage) as kernel:
        info = await kernel.syscalls.sys_proc_spawn(
            ALICE, spec(task="lead", name="boss", max_turns=4)
        )
        stage.curtain.set()
        status = await kernel.syscalls.sys_proc_wait(ALICE, info.pid, 10)

    assert (status.exit_code, status.reason) == (3, "max_turns (4) reached")
