"""Causes of failed calls, with exceptions named like those of litellm, openai and httpx."""

from typing import Any

import pytest

from nexusfs.services.llm.failure import CutError, failure_of


class Timeout(Exception):
    status_code = 408


class APIConnectionError(Exception):
    status_code = 500


class InternalServerError(Exception):
    status_code = 500


class BadRequestError(Exception):
    status_code = 400


class RateLimitError(Exception):
    status_code = 429


class APIError(Exception):
    status_code = 529


class ConnectError(OSError):
    pass


class MidStreamFallbackError(Exception):
    def __init__(self, text: str, original: Exception) -> None:
        super().__init__(text)
        self.original_exception = original


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("exc", "kind", "retryable"),
    [
        (RateLimitError("slow down"), "rate_limit", True),
        (RateLimitError("code: insufficient_quota"), "rate_limit", False),
        (BadRequestError("no such parameter"), "bad_request", False),
        (BadRequestError("This model's maximum context length is 8"), "context_length", False),
        (Timeout("Request timed out."), "timeout", True),
        (
            InternalServerError("InternalServerError: OpenAIException - Connection error."),
            "connection",
            True,
        ),
        (caused(InternalServerError("x"), ConnectError("refused")), "connection", True),
        (InternalServerError("boom"), "server", True),
        (InternalServerError("Missing credentials. Please pass an `api_key`"), "auth", False),
        (APIError("overloaded"), "server", True),
        (APIConnectionError("OpenAIException - No module named 'mcp'"), "unknown", False),
        (caused(APIConnectionError("x"), ImportError("y")), "unknown", False),
        (caused(APIConnectionError("x"), RuntimeError("y")), "unknown", False),
        (APIConnectionError("x"), "connection", True),
        (
            MidStreamFallbackError("x", APIConnectionError("Response payload is not completed")),
            "cut",
            True,
        ),
        (CutError("the stream ended"), "cut", True),
        (KeyError("x"), "unknown", False),
        (ValueError("x"), "unknown", False),
    ],
)
def test_the_cause_decides(exc: BaseException, kind: str, retryable: bool) -> None:
    failure = failure_of(exc)

    assert (failure.kind, failure.retryable) == (kind, retryable)


def test_the_tower_of_class_names_is_taken_off() -> None:
    exc = BadRequestError("litellm.BadRequestError: ContextError: OpenAIException - too\n long")

    assert failure_of(exc).message == "too long"


def test_a_retry_after_header_is_found_on_the_response() -> None:
    exc: Any = RateLimitError("x")
    exc.response = type("Response", (), {"headers": {"retry-after": "7"}})()

    assert failure_of(exc).retry_after_s == 7.0
