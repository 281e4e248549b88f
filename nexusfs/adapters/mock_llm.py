"""`nexusfs mock-llm`: a script of turns as an OpenAI-compatible endpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click
import trio

from nexusfs.contracts.errors import InvalidError


@click.command("mock-llm")
@click.option("--script", "script_path", required=True, help="script of turns, JSON or JSON Lines",
              type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--port", default=8080, show_default=True, help="0 picks a free one")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--log", "log_path", help="append one JSON line a request here",
              type=click.Path(dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--in-order", is_flag=True, help="turns go to whoever asks next")
def mock_llm(
    script_path: Path, port: int, host: str, log_path: Path | None, in_order: bool
) -> None:
    r"""Serve a script of model turns as an OpenAI-compatible endpoint.

    \b
    Example:
      echo '[{"content": "Hello."}]' > hello.json
      nexusfs mock-llm --script hello.json --port 0
      then spawn {"model": "openai/any", "model_settings": {"api_base": "http://127.0.0.1:PORT/v1"}}
    """
    # starlette and hypercorn take 0.3 s to import: no other command pays for them
    from nexusfs.services.llm.mock_server import MockModel, listen, serve_mock  # noqa: PLC0415
    from nexusfs.services.llm.script import Script  # noqa: PLC0415

    async def main(log: TextIO | None) -> None:
        model = MockModel(script, in_order=in_order, log=log)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_mock, model, sock)
            click.echo(f"listening on {address}")
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(signals)
            nursery.cancel_scope.cancel()

    try:
        script = Script.parse(script_path.read_bytes())
        sock = listen(host, port)
    except InvalidError as exc:
        raise click.ClickException(f"{script_path}: {exc}") from None
    except OSError as exc:
        raise click.ClickException(f"{host}:{port}: {exc.strerror}") from None
    with sock, _opened(log_path) as log:
        trio.run(main, log)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open("a", encoding="utf-8") as file:
        yield file
