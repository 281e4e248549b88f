"""Runs mock-llm: wires a script, its log and a listening socket together; no kernel is needed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import trio

from nexusfs.services.llm.mock_server import MockModel, listen, serve_mock
from nexusfs.services.llm.script import Script


@dataclass(frozen=True, slots=True)
class MockOptions:
    """What the command line says.

    Attributes:
        script: file of turns, JSON or JSON Lines.
        host: address to listen on.
        port: 0 picks a free one.
        log: gets one JSON line a request.
        in_order: turns go to whoever asks next.
    """

    script: Path
    host: str
    port: int
    log: Path | None = None
    in_order: bool = False


def run_mock(options: MockOptions, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; `ready` hears the base address.

    Raises:
        InvalidError: EINVAL, not a script.
        OSError: the script, the log or the address cannot be opened.
    """
    script = Script.parse(options.script.read_bytes())
    with listen(options.host, options.port) as sock, _opened(options.log) as log:
        model = MockModel(script, in_order=options.in_order, log=log)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    ready(await nursery.start(serve_mock, model, sock))
                    await anext(signals)
                nursery.cancel_scope.cancel()

        trio.run(main)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open("a", encoding="utf-8") as file:
        yield file
