"""audit: whether anybody changed the audit log."""

import errno
import hashlib
import json

import click

from nexusfs.adapters.cli.options import examples, with_mount
from nexusfs.adapters.client import ClientError, Mount

PATH = "var/log/audit.jsonl"
NO_LINE = "0" * 64


@click.group(epilog=examples("nexusfs audit verify"))
def audit() -> None:
    """Look after the audit log, var/log/audit.jsonl."""


@audit.command(epilog=examples("nexusfs audit verify"))
@with_mount
def verify(mount: Mount) -> None:
    """Check the chain of hashes: exit status 1, and the first line at fault, when it is broken.

    Whoever cuts lines off the end leaves a good chain: note the last `seq` elsewhere.
    """
    before, number = NO_LINE, 0
    for number, line in enumerate(mount.read(PATH).splitlines(), 1):
        try:
            row = json.loads(line)
            good = (row["seq"], row["prev"]) == (number, before)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise ClientError(
                errno.EIO, f"{PATH}: line {number}, or the one before it, is not as written"
            )
        before = hashlib.sha256(line).hexdigest()
    click.echo(f"{number} lines, the chain is whole; the last line's hash is {before}")
