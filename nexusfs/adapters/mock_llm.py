"""`nexusfs mock-llm`: a script of turns as an OpenAI-compatible endpoint."""

from pathlib import Path

import click

from nexusfs.boot.mock_llm import MockOptions, run_mock
from nexusfs.contracts.errors import InvalidError

HELP = """Serve a script of model turns as an OpenAI-compatible endpoint, until Ctrl-C.

\b
Examples:
  echo '[{"content": "Hello."}]' > hello.json
  nexusfs mock-llm --script hello.json --port 0
\b
Then spawn an agent with the address that was printed:
  {"model": "openai/any", "task": "…",
   "model_settings": {"api_base": "http://127.0.0.1:PORT/v1"}}
"""


@click.command("mock-llm", help=HELP)
@click.option(
    "--script",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Turns: JSON or JSON Lines, as offline/script plays them.",
)
@click.option("--port", default=8080, show_default=True, help="0 picks a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append one JSON line a request here.",
)
@click.option("--in-order", is_flag=True, help="Turns go to whoever asks next.")
def mock_llm(script: Path, port: int, host: str, log: Path | None, in_order: bool) -> None:
    """Serves a script; errors are one line on stderr."""
    options = MockOptions(script, host, port, log, in_order)
    try:
        run_mock(options, lambda address: click.echo(f"listening on {address}"))
    except InvalidError as exc:
        raise click.ClickException(f"{script}: {exc}") from None
    except OSError as exc:
        what = exc.filename or f"{host}:{port}"
        raise click.ClickException(f"{what}: {exc.strerror}") from None
