"""Model calls within limits: each is counted, priced and reserved before it is made."""

from nexusfs.contracts.model import ModelCall, ModelPort, Quote
from nexusfs.contracts.proc import Held, ProgramProcess

ANSWER_TOKENS = 4096
"""Of an answer, where the spec has no max_tokens: a provider's own default may be anything."""
SETTINGS = ("max_tokens", "max_completion_tokens")


async def reserved(
    process: ProgramProcess, models: ModelPort, call: ModelCall, *, closing: bool = False
) -> tuple[Held, ModelCall]:
    """A reservation for a call, and the call with the length of its answer in it.

    A `closing` call is made although turns are spent.

    Raises:
        QuotaError: EDQUOT, a limit of the agent or above it has no room for the call.
        NotPermittedError: EPERM, the agent's rights do not give it the model.

    Suspends while the prompt is counted. The caller releases the reservation.
    """
    quote = await models.quote(call) if process.is_metered else Quote(call.model, 0)
    held = process.hold_call(quote, _asked(call, quote), closing=closing)
    name = next((name for name in SETTINGS if name in call.settings), SETTINGS[0])
    settings = {**call.settings, name: held.answer_tokens}
    return held, ModelCall(
        call.model, call.messages, call.tools, settings, call.fallback_models, call.conversation
    )


def _asked(call: ModelCall, quote: Quote) -> int:
    """Tokens that the answer may have as far as the spec and the model go."""
    settings = call.settings
    thinking = settings.get("thinking")
    thought = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    asked = ANSWER_TOKENS + (thought if isinstance(thought, int) else 0)
    if quote.max_output_tokens is not None:
        asked = min(asked, quote.max_output_tokens)
    for name in SETTINGS:
        if isinstance(settings.get(name), int):
            asked = settings[name]
    return max(asked, 1)
