"""Observers and calls for the tests of models."""

from typing import Any

import pytest
import trio

from nexusfs.contracts.model import ModelCall


class Observer:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.retries: list[tuple[str, str, float]] = []

    def text(self, piece: str) -> None:
        self.pieces.append(piece)

    async def retry(self, model: str, error: str, delay_s: float) -> None:
        self.retries.append((model, error, delay_s))
        await trio.sleep(delay_s)


class Calls:
    """Makes calls of one user message."""

    @staticmethod
    def of(text: str, model: str = "openai/any", **more: Any) -> ModelCall:
        return ModelCall(model, [{"role": "user", "content": text}], **more)


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def calls() -> type[Calls]:
    return Calls
