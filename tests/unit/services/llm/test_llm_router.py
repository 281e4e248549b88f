"""Retries, fallbacks and names, with a fake in place of the worker and a virtual clock."""

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import InvalidError, ModelError
from nexusfs.contracts.model import ModelCall, ModelObserver, ModelReply, Quote, Usage
from nexusfs.services.llm.client import AttemptError, WorkerDiedError
from nexusfs.services.llm.router import Backoff, ModelRouter

BUSY = AttemptError("busy", kind="server", retryable=True)
DIED = WorkerDiedError("the model worker was ended by signal 9", kind="connection", retryable=True)


class FakeWorker:
    """Raises or answers, in order; the last outcome stays."""

    state = "running"

    def __init__(self, *outcomes: ModelError | str) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[float, ModelCall]] = []
        self.quotes: dict[str, Quote] = {}

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        self.calls.append((trio.current_time(), call))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, ModelError):
            raise outcome
        return ModelReply({"role": "assistant", "content": outcome}, Usage(), call.model)

    async def quote(self, call: ModelCall) -> Quote:
        return self.quotes[call.model]

    @property
    def waits(self) -> list[float]:
        times = [time for time, _ in self.calls]
        return [round(b - a, 3) for a, b in pairwise(times)]


def router(worker: FakeWorker, **more: Any) -> ModelRouter:
    return ModelRouter(worker, chance=lambda: 0.0, **more)


async def test_waits_grow_from_attempt_to_attempt(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    worker = FakeWorker(BUSY, BUSY, BUSY, "ok")

    reply = await router(worker, backoff=Backoff(first_s=1.0)).complete(calls.of("x"), observer)

    assert reply.message["content"] == "ok"
    assert worker.waits == [1.0, 2.0, 4.0]
    assert observer.retries == [("openai/any", "busy", wait) for wait in (1.0, 2.0, 4.0)]


async def test_retry_after_is_honoured(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    error = AttemptError("slow", kind="rate_limit", retryable=True, retry_after_s=40.0)
    worker = FakeWorker(error, "ok")

    await router(worker).complete(calls.of("x"), observer)

    assert worker.waits == [40.0]


async def test_a_wait_past_the_total_is_not_begun(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    error = AttemptError("slow", kind="rate_limit", retryable=True, retry_after_s=4000.0)

    with pytest.raises(ModelError, match="slow"):
        await router(FakeWorker(error)).complete(calls.of("x"), observer)

    assert trio.current_time() < 1


async def test_attempts_are_bounded(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    worker = FakeWorker(BUSY)

    with pytest.raises(ModelError):
        await router(worker, backoff=Backoff(attempts=3)).complete(calls.of("x"), observer)

    assert len(worker.calls) == 3


async def test_deaths_of_the_worker_are_no_attempts(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    worker = FakeWorker(*[DIED] * 10, BUSY, *[DIED] * 10, "ok")

    reply = await router(worker, backoff=Backoff(attempts=2)).complete(calls.of("x"), observer)

    assert reply.message["content"] == "ok"
    assert len(worker.calls) == len(observer.retries) + 1 == 22


async def test_a_call_that_kills_each_worker_ends(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    worker = FakeWorker(DIED)

    with pytest.raises(ModelError, match="ended by signal 9"):
        await router(worker).complete(calls.of("x"), observer)

    assert len(worker.calls) < 50


async def test_a_failure_for_good_is_not_tried_again_and_has_no_fallback(
    calls: Any, observer: Any
) -> None:
    worker = FakeWorker(AttemptError("no", kind="auth", retryable=False))

    with pytest.raises(ModelError) as caught:
        await router(worker).complete(calls.of("x", fallback_models=("openai/b",)), observer)

    assert (caught.value.kind, len(worker.calls)) == ("auth", 1)


async def test_fallbacks_are_tried_in_order(
    calls: Any, observer: Any, autojump_clock: trio.testing.MockClock
) -> None:
    worker = FakeWorker(BUSY, BUSY, "ok")
    call = calls.of("x", fallback_models=("openai/b", "openai/c"))

    reply = await router(worker, backoff=Backoff(attempts=1)).complete(call, observer)

    assert reply.model == "openai/c"
    assert [model for model, _, _ in observer.retries] == ["openai/any", "openai/b"]


async def test_offline_models_never_reach_the_worker(calls: Any, observer: Any) -> None:
    worker = FakeWorker("no")

    reply = await router(worker).complete(calls.of("hi", "offline/echo"), observer)

    assert (reply.message["content"], worker.calls) == ("hi", [])


async def test_no_model_is_the_default(calls: Any, observer: Any) -> None:
    models = router(FakeWorker("no"), default_model="offline/echo")

    assert (await models.complete(calls.of("hi", ""), observer)).model == "offline/echo"


def test_an_alias_is_resolved_and_a_slip_is_taught() -> None:
    models = router(FakeWorker("x"), aliases={"sonnet": "anthropic/claude-sonnet-4-5"})

    assert models.resolve("sonnet") == "anthropic/claude-sonnet-4-5"
    assert models.resolve(None) == "offline/demo"
    with pytest.raises(InvalidError, match="did you mean 'sonnet'"):
        models.resolve("sonet")


@pytest.mark.parametrize("name", ["gpt", "/x", "x/", "offline/nope", "huggingface/https://evil/x"])
def test_a_name_that_is_no_model_is_einval(name: str) -> None:
    with pytest.raises(InvalidError):
        router(FakeWorker("x")).resolve(name)


async def test_a_key_in_the_settings_is_refused(calls: Any, observer: Any) -> None:
    with pytest.raises(InvalidError, match="a key never goes into a spec"):
        await router(FakeWorker("x")).complete(
            calls.of("x", settings={"api_key": "sk-1"}), observer
        )


def test_available_says_which_key_is_missing() -> None:
    aliases = {"gpt": "openai/gpt-5", "haiku": "anthropic/claude-haiku-4-5"}

    rows = router(FakeWorker("x"), aliases=aliases, key_names={"OPENAI_API_KEY"}).available()

    ready = {row["model"]: row["ready"] for row in rows}
    assert ready["offline/demo"] is ready["openai/gpt-5"] is True
    assert ready["anthropic/claude-haiku-4-5"] is False
    assert "ANTHROPIC_API_KEY" in rows[-1]["why"]


async def test_a_quote_is_of_the_dearest_model_that_may_answer(calls: Any) -> None:
    worker = FakeWorker("ok")
    worker.quotes = {
        "openai/cheap": Quote("openai/cheap", 10, 1e-6, 1e-6),
        "openai/dear": Quote("openai/dear", 10, 1e-5, 1e-5),
        "openai/unknown": Quote("openai/unknown", 10, None, None),
    }

    async def of(model: str, *fallbacks: str) -> str:
        call = dataclasses.replace(calls.of("x"), model=model, fallback_models=fallbacks)
        return (await router(worker).quote(call)).model

    assert await of("openai/cheap", "openai/dear") == "openai/dear"
    assert await of("openai/dear", "openai/unknown", "openai/cheap") == "openai/unknown"
    assert await of("openai/cheap", "offline/echo") == "openai/cheap"
