"""The model port: which model answers, how often it is tried, and what is tried after it."""

import dataclasses
import difflib
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import trio

from nexusfs.contracts.errors import InvalidError, ModelError
from nexusfs.contracts.model import ModelCall, ModelObserver, ModelReply, Quote
from nexusfs.services.llm.client import AttemptError, WorkerDiedError
from nexusfs.services.llm.offline import OFFLINE, OfflineModels
from nexusfs.services.llm.settings import check_settings
from nexusfs.services.llm.wire import REPLY_BYTES

R = TypeVar("R")
Retry = Callable[[str, str, float], Awaitable[None]]
"""(model, error, seconds to wait): an attempt failed; returns when the next may start."""

DEFAULT_TIMEOUT_S = 600.0
"""Of one silent wait for a provider. Source: the default of the openai client."""

PROVIDER_KEYS: Mapping[str, str] = {
    "anthropic": "ANTHROPIC_API_KEY",
    "openai": "OPENAI_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "groq": "GROQ_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "xai": "XAI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "together_ai": "TOGETHERAI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "azure": "AZURE_API_KEY",
    "bedrock": "AWS_ACCESS_KEY_ID",
}
"""The variable that litellm wants for a provider; one that is not named may need none."""


RESOLVED_MAX, NAME_CHARS = 1000, 200
"""Names of models whose meaning is kept: a call asks for it three times."""

WORKER_DEATHS = 30
"""So many deaths of the worker in one call are no attempts; then the call may be what kills it."""

WHERE_KEYS_GO = (
    "keys are taken from the environment of `nexusfs mount`, or from [keys] in the configuration"
)


class Attempts(Protocol):
    """Makes single attempts at a call: WorkerClient, or a fake in tests."""

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """One attempt; ModelError EREMOTEIO when it fails."""
        ...

    async def quote(self, call: ModelCall) -> Quote:
        """Counts a call's prompt and names its price."""
        ...

    @property
    def state(self) -> str:
        """One line about it."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """How a failed attempt is tried again.

    Attributes:
        attempts: per model, the first one included.
        first_s: wait before the second attempt; each further one is `factor` times longer.
        most_s: longest wait that is not the provider's own wish.
        jitter: each wait is longer by up to this fraction, so that agents do not come back
        together. total_s: no wait begins that would end later than this after the call began.
    """

    attempts: int = 5
    first_s: float = 0.5
    factor: float = 2.0
    most_s: float = 30.0
    jitter: float = 0.25
    total_s: float = 300.0

    def wait_s(self, attempt: int, asked_s: float | None, chance: float) -> float:
        """Seconds to wait after `attempt` (from 1); never less than the provider asked for."""
        wait = min(self.most_s, self.first_s * self.factor ** (attempt - 1))
        return max(wait, asked_s or 0.0) * (1 + self.jitter * chance)


class ModelRouter:
    """Answers model calls: offline models in process, all others by the worker. A ModelPort."""

    def __init__(
        self,
        worker: Attempts,
        *,
        aliases: Mapping[str, str] | None = None,
        default_model: str = "offline/demo",
        key_names: Collection[str] = (),
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`key_names` are names of variables that the worker has keys for; never the keys.

        `aliases` maps short names to `provider/model`; `chance` gives numbers in [0, 1).
        """
        self._worker = worker
        self._offline: Attempts = OfflineModels()
        self._aliases = dict(aliases or {})
        self._default = default_model
        self._resolved: dict[str, str] = {}
        self._key_names = frozenset(key_names)
        self._backoff = backoff or Backoff()
        self._chance = chance

    def configure(self, aliases: Mapping[str, str], default_model: str) -> None:
        """Takes other aliases and another default into use, from the next call on."""
        self._aliases = dict(aliases)
        self._default = default_model
        self._resolved.clear()

    def resolve(self, model: str | None) -> str:
        """The `provider/model` that a name means; the default for None or an empty name.

        Raises:
            InvalidError: EINVAL, neither an alias nor `provider/model`; says what to write.
        """
        name = model or self._default
        found = self._resolved.get(name)
        if found is None:
            found = self._meaning(name)
            if len(self._resolved) < RESOLVED_MAX and len(name) <= NAME_CHARS:
                self._resolved[name] = found
        return found

    def _meaning(self, name: str) -> str:
        name = self._aliases.get(name, name)
        provider, slash, rest = name.partition("/")
        if not slash or not provider or not rest:
            near = difflib.get_close_matches(name, self._aliases, n=1)
            known = ", ".join(sorted(self._aliases))
            hint = f"did you mean {near[0]!r}?" if near else f"aliases: {known or 'none'}"
            raise InvalidError(
                f"model {name!r}: write provider/model, as offline/demo, or give it a "
                f"meaning under [model_aliases] in the configuration (see sys/config); {hint}"
            )
        if provider != OFFLINE and difflib.get_close_matches(provider, [OFFLINE], cutoff=0.8):
            raise InvalidError(f"model {name!r}: did you mean {OFFLINE}/{rest}?")
        if "://" in name and provider != OFFLINE:
            raise InvalidError(f"model {name!r}: an address goes into model_settings.api_base")
        if provider == OFFLINE:
            OfflineModels.check(name)
        return name

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """The whole reply, after retries, or of the first fallback that answers.

        Raises:
            InvalidError: EINVAL, the model's name or a setting is wrong.
            ModelError: EREMOTEIO, all attempts failed; the last model's error.

        Suspends for as long as the model takes. Cancelling closes the provider's connection.
        """
        check_settings(call.settings)
        models = [self.resolve(name) for name in (call.model, *call.fallback_models)]
        for number, model in enumerate(models):
            settings = call.settings
            if not model.startswith(f"{OFFLINE}/"):
                settings = {"timeout": DEFAULT_TIMEOUT_S, **settings}
            one = call
            if (model, settings, ()) != (call.model, call.settings, call.fallback_models):
                one = dataclasses.replace(call, model=model, settings=settings, fallback_models=())
            try:
                make = partial(self._bounded, one, observer)
                return await self._attempts(one, make, observer.retry)
            except ModelError as exc:
                if exc.kind == "auth":
                    raise ModelError(f"{exc}; {WHERE_KEYS_GO}", kind="auth") from None
                if not exc.retryable or number == len(models) - 1:
                    raise
                error = str(exc)
            await observer.retry(model, error, 0.0)
        raise AssertionError("there is always a first model")

    async def quote(self, call: ModelCall) -> Quote:
        """See `ModelPort.quote`: of the model and its fallbacks, the dearest.

        InvalidError EINVAL, the model's name is wrong; ModelError EREMOTEIO, UnavailableError.
        """
        quotes = [await self._quote(call, name) for name in (call.model, *call.fallback_models)]
        return quotes[0] if len(quotes) == 1 else max(quotes, key=_dearness)

    async def _quote(self, call: ModelCall, name: str) -> Quote:
        model = self.resolve(name)
        one = call if model == call.model else dataclasses.replace(call, model=model)
        source = self._source(one)
        if source is self._offline:
            return await source.quote(one)
        return await self._attempts(one, partial(source.quote, one), _unheard)

    async def _bounded(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """One attempt; one whose text does not end is cut off, whatever max_tokens said."""
        source = self._source(call)
        if source is self._offline:  # comes to its end by itself, and soon
            heard = _Bounded(observer, None)
            reply = await source.complete(call, heard)
        else:
            with trio.CancelScope() as scope:
                heard = _Bounded(observer, scope)
                reply = await source.complete(call, heard)
        if heard.left < 0:
            raise ModelError(
                f"the answer is over {REPLY_BYTES} characters: it was cut off", kind="bad_request"
            )
        return reply

    def _source(self, call: ModelCall) -> Attempts:
        return self._offline if call.model.startswith(f"{OFFLINE}/") else self._worker

    async def _attempts(self, call: ModelCall, make: Callable[[], Awaitable[R]], retry: Retry) -> R:
        """One model, tried until it answers, fails for good, or time is up."""
        last_start = trio.current_time() + self._backoff.total_s
        attempt = deaths = 0
        while True:
            attempt += 1
            try:
                return await make()
            except ModelError as exc:
                if isinstance(exc, WorkerDiedError) and deaths < WORKER_DEATHS:
                    attempt, deaths = attempt - 1, deaths + 1  # the provider did nothing wrong
                if not exc.retryable or attempt >= self._backoff.attempts:
                    raise
                asked_s = exc.retry_after_s if isinstance(exc, AttemptError) else None
                wait_s = self._backoff.wait_s(max(attempt, 1), asked_s, self._chance())
                if trio.current_time() + wait_s > last_start:
                    raise
                error = str(exc)
            await retry(call.model, error, wait_s)

    def available(self) -> list[dict[str, Any]]:
        """What can be used now: offline models, then each alias with what it lacks."""
        rows = [
            {"model": f"{OFFLINE}/{name}", "provider": OFFLINE, "ready": True, "why": ""}
            for name in ("demo", "echo", "script:PATH")
        ]
        return rows + [self._row(alias, model) for alias, model in sorted(self._aliases.items())]

    def _row(self, alias: str, model: str) -> dict[str, Any]:
        provider = model.partition("/")[0]
        key = PROVIDER_KEYS.get(provider)
        lacks = key is not None and key not in self._key_names
        why = (
            f"{key} is neither in the environment of `nexusfs mount` nor in [keys]" if lacks else ""
        )
        return {
            "model": model,
            "alias": alias,
            "provider": provider,
            "ready": not lacks,
            "why": why,
        }

    @property
    def state(self) -> str:
        """One line for sys/services."""
        return self._worker.state


class _Bounded:
    """Passes on what a call says, up to the most; then it cancels the call."""

    __slots__ = ("_observer", "_scope", "left", "retry")

    def __init__(self, observer: ModelObserver, scope: trio.CancelScope | None) -> None:
        self._observer = observer
        self._scope = scope
        self.retry = observer.retry
        self.left = REPLY_BYTES

    def text(self, piece: str) -> None:
        self.left -= len(piece)
        if self.left >= 0:
            self._observer.text(piece)
        elif self._scope is not None:
            self._scope.cancel()


async def _unheard(model: str, error: str, delay_s: float) -> None:
    """Waits. Of attempts to count a prompt nobody needs to know."""
    await trio.sleep(delay_s)


def _dearness(quote: Quote) -> tuple[float, int]:
    """What of two quotes is the dearer one: an unknown price first of all."""
    cost = quote.cost_usd(quote.input_tokens, quote.input_tokens)
    return math.inf if cost is None else cost, quote.input_tokens
