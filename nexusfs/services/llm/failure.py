"""What went wrong in a model call: exception → kind, whether to try again, one sentence.

Causes decide, not classes alone: litellm dresses an ImportError and a RuntimeError as
APIConnectionError and a refused connection as InternalServerError. Nothing of litellm is imported
here; its exceptions, those of openai and of httpx are known by the names of their classes and by
`status_code`.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

RETRYABLE = frozenset({"rate_limit", "timeout", "connection", "server", "cut"})

KIND_OF_STATUS = {
    400: "bad_request",
    401: "auth",
    403: "auth",
    404: "not_found",
    408: "timeout",
    409: "server",
    413: "context_length",
    422: "bad_request",
    425: "server",
    429: "rate_limit",
    500: "server",
    502: "server",
    503: "server",
    504: "timeout",
    529: "server",
}
STATUS_OF_KIND = {
    "auth": 401,
    "rate_limit": 429,
    "timeout": 504,
    "connection": 502,
    "server": 500,
    "bad_request": 400,
    "context_length": 400,
    "not_found": 404,
    "cut": 500,
    "unknown": 400,
}

_BUGS = frozenset({"NameError", "AttributeError", "TypeError", "KeyError", "RuntimeError"})
"""Outermost, or alone inside an APIConnectionError, these are bugs: trying again cannot help."""
_TRANSPORT = frozenset({"OSError", "HTTPError", "ClientError", "TransportError"})
"""Root classes of the transport errors of Python, httpx and aiohttp."""
_KIND_OF_CLASS = {
    "ContextWindowExceededError": "context_length",
    "AuthenticationError": "auth",
    "PermissionDeniedError": "auth",
    "NotFoundError": "not_found",
    "RateLimitError": "rate_limit",
    "Timeout": "timeout",
    "APITimeoutError": "timeout",
    "TimeoutException": "timeout",
    "TimeoutError": "timeout",
    "RemoteProtocolError": "cut",
    "ReadError": "cut",
    "ClientPayloadError": "cut",
    "TransferEncodingError": "cut",
    "ServerDisconnectedError": "connection",
    "ConnectError": "connection",
    "ClientConnectorError": "connection",
    "ConnectionError": "connection",
    "UnsupportedParamsError": "bad_request",
    "ContentPolicyViolationError": "bad_request",
    "BadRequestError": "bad_request",
    "UnprocessableEntityError": "bad_request",
}
_TOO_LONG = re.compile(
    r"context.{0,20}(length|window|limit)|maximum context|prompt is too long"
    r"|too many (input )?tokens|context_length_exceeded|input is too long",
    re.IGNORECASE,
)
_NO_MODULE = re.compile(r"No module named|cannot import name|is not installed|pip install")
_SPENT = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance is too low", re.I
)
_CUT = re.compile(
    r"incomplete chunked read|peer closed|not enough data|payload is not completed", re.I
)
_LOOP = re.compile(r"event loop|no running|different loop", re.IGNORECASE)
_CLASSES = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout|Exception)\s*[:-]\s*)+")
_TAIL = re.compile(r"\s*(?:Original exception: |Error_str: |Received Model Group=).*$", re.DOTALL)
_NO_KEY = re.compile(
    r"missing credentials|missing .{0,40}api[_ ]?key|no api[_ ]?key|unable to locate credentials"
    r"|api[_ ]?key .{0,30}(must|is) (be set|required|missing)",
    re.IGNORECASE,
)
"""Clients raise their own errors where a key is missing, which litellm dresses as a 500."""

MESSAGE_CHARS = 2000
"""A provider may answer with a whole web page."""


class CutError(Exception):
    """The stream ended before the model had finished."""


class LongError(Exception):
    """The answer is longer than any that is taken."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as it goes over the wire; `retry_after_s` is the provider's wish."""

    kind: str
    retryable: bool
    message: str
    retry_after_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As the `error` object of the worker's line."""
        return asdict(self)


def failure_of(exc: BaseException) -> Failure:
    """The failure that `exc` means. Its message is not yet scrubbed of keys."""
    chain = list(_chain(exc))
    text = str(exc) or type(exc).__name__
    kind = _kind_of(chain, text)
    retryable = kind in RETRYABLE and not (kind == "rate_limit" and _SPENT.search(text))
    return Failure(kind, retryable, sentence_of(text), _retry_after(chain))


def sentence_of(text: str) -> str:
    """The text without the tower of class names in front, on one line, not too long."""
    short = _CLASSES.sub("", _TAIL.sub("", " ".join(text.split())))
    return (short or text)[:MESSAGE_CHARS]


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """The exception and what it came from, outermost first."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [exc]
    while queue:
        one = queue.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            context = None if one.__suppress_context__ else one.__context__
            queue += [getattr(one, "original_exception", None), one.__cause__, context]


def _kind_of(chain: list[BaseException], text: str) -> str:
    """Bugs first, then what the text says for certain, then causes, then statuses."""
    names = [{cls.__name__ for cls in type(exc).__mro__} for exc in chain]
    if any(isinstance(exc, LongError) for exc in chain):
        return "bad_request"
    if any(isinstance(exc, CutError) for exc in chain):
        return "cut"
    if _NO_MODULE.search(text) or _LOOP.search(text) or _is_bug(names):
        return "unknown"
    if _NO_KEY.search(text):
        return "auth"
    if _TOO_LONG.search(text) and _status_of(chain) in (None, 400, 413, 422):
        return "context_length"
    if any("MidStreamFallbackError" in mro for mro in names) or _CUT.search(text):
        return _kind_of_stream(chain[1:], names[1:])
    return _kind_of_cause(chain, names)


def _is_bug(names: list[set[str]]) -> bool:
    """True for a missing package anywhere, and for a bug that no transport error explains."""
    if any("ImportError" in mro for mro in names) or names[0] & _BUGS:
        return True
    wrapped = "APIConnectionError" in names[0] and not any(mro & _TRANSPORT for mro in names)
    return wrapped and any(mro & _BUGS for mro in names)


def _kind_of_stream(chain: list[BaseException], names: list[set[str]]) -> str:
    """An error after the stream began: its cause if that is a clear one, else a cut."""
    kind = _kind_of_cause(chain, names) if chain else "cut"
    return kind if kind in ("timeout", "rate_limit", "auth") else "cut"


def _kind_of_cause(chain: list[BaseException], names: list[set[str]]) -> str:
    """The innermost transport error, else the outermost class that is known, else the status."""
    for mro in reversed(names):
        for name in (
            "TimeoutException",
            "ConnectError",
            "ClientConnectorError",
            "ServerDisconnectedError",
        ):
            if name in mro:
                return _KIND_OF_CLASS[name]
    if "Connection error" in str(chain[0]):
        return "connection"
    for mro in names:
        for name, kind in _KIND_OF_CLASS.items():
            if name in mro:
                return kind
    if any("APIConnectionError" in mro for mro in names):
        return "connection"
    status = _status_of(chain)
    if status is None:
        return "unknown"
    return KIND_OF_STATUS.get(status, "server" if status >= 500 else "bad_request")


def _status_of(chain: list[BaseException]) -> int | None:
    for exc in chain:
        status = getattr(exc, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _retry_after(chain: list[BaseException]) -> float | None:
    """Seconds of a Retry-After header, wherever the libraries put it; dates are not read."""
    for exc in chain:
        response = getattr(exc, "response", None)
        for headers in (
            getattr(exc, "litellm_response_headers", None),
            getattr(exc, "headers", None),
            getattr(response, "headers", None),
        ):
            get = getattr(headers, "get", None)
            value = get("retry-after") if callable(get) else None
            try:
                return max(0.0, float(value))  # type: ignore[arg-type]  # None is caught below
            except (TypeError, ValueError):
                continue
    return None
