"""Which of litellm's call options a spec may set in `model_settings`.

An allow-list, since litellm takes hundreds of options and some would hand out keys, read files of
the host, run callbacks, or set their own prices past the budget.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from nexusfs.contracts.errors import InvalidError

_NAMES = """
    api_base api_version base_url drop_params extra_body extra_headers frequency_penalty
    logit_bias logprobs max_completion_tokens max_tokens metadata modalities organization
    parallel_tool_calls prediction presence_penalty prompt_cache_key reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_timeout
    temperature thinking timeout tool_choice top_k top_logprobs top_p user verbosity
    web_search_options
"""
ALLOWED = frozenset(_NAMES.split())


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses options that are unknown or not the caller's to set.

    Raises:
        InvalidError: EINVAL, names the option and the nearest allowed one, or where a key belongs.
    """
    for name in settings:
        if name in ALLOWED:
            continue
        if "key" in name.lower() or "token" in name.lower().replace("tokens", ""):
            raise InvalidError(
                f"model_settings.{name}: a key never goes into a spec; put it into the environment "
                "of `nexusfs mount` or the table [keys] of the configuration"
            )
        near = difflib.get_close_matches(name, ALLOWED, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; one of: {', '.join(sorted(ALLOWED))}"
        raise InvalidError(f"model_settings.{name} is not an option that a spec may set{hint}")
    for name in ("timeout", "stream_timeout"):
        value = settings.get(name)
        if value is not None and not (type(value) in (int, float) and value > 0):
            raise InvalidError(f"model_settings.{name}: seconds, a number above 0")
