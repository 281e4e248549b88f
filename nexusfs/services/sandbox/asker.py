"""Who wants programs run in a sandbox, and who is told of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.rights import EVERYTHING, Grant
from nexusfs.kernel.bound import BoundSyscalls


def _everything() -> tuple[Grant, ...]:
    """What people get."""
    return EVERYTHING


@dataclass(frozen=True, slots=True)
class Asker:
    """One caller of the tools that run programs.

    Attributes:
        cred: whose rights the programs have; its agent is who asks when they use the mount.
        files: the same caller's files.
        name: the agent's name, whose /home/<name> is HOME where it exists; empty for people.
        call_id: the call that runs them.
        grants: gives the paths that a program gets; asked for each.
        show: takes a kind and fields of a line for `events_pipe`.
        over: suspends until its programs must end, and says why; for ever for people.
    """

    cred: Credentials
    files: BoundSyscalls
    name: str
    call_id: str
    show: Callable[..., None]
    over: Callable[[], Awaitable[str]]
    grants: Callable[[], tuple[Grant, ...]] = _everything
