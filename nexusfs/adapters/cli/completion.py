"""completion: click's script for a shell, which asks `nexusfs` itself at each Tab."""

import click
from click.shell_completion import get_completion_class

from nexusfs.adapters.cli.options import examples


@click.command(
    epilog=examples(
        'eval "$(nexusfs completion bash)"                            in ~/.bashrc',
        'eval "$(nexusfs completion zsh)"                             in ~/.zshrc',
        "nexusfs completion fish > ~/.config/fish/completions/nexusfs.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print shell completion; pids, agents and tools complete from the mount."""
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(script(ctx.find_root().command, {}, "nexusfs", "_NEXUSFS_COMPLETE").source())
