"""What of the mount a sandbox has, where, and what a path of the mount is called inside.

The mount itself is bound, never the store. Ordinary top-level directories are at their place;
those with a name that a Linux root needs itself are under /nexus, as are the control trees. So
is everything when the whole tree is granted: `/nexus/x` is `x`, for every tool too.
"""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.rights import Access, Grant
from nexusfs.contracts.tool import CONTROL_TREES, ToolFiles

NEXUS = "/nexus"
RESERVED = re.compile(
    r"bin|etc|proc|sys|dev|usr|lib(|32|64|x32|o32)|sbin|var|tmp|run|nexus|dispatch"
)
"""Names that a Linux root needs itself, or that /nexus alone has. Source: hier(7)."""
AT_THEIR_PLACE = 256
"""Top-level directories that are bound by themselves, the first by name: bubblewrap takes 60 ms for
so many, and for twice as many 0.6 s. All others are under /nexus alone."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of the mount (`source`, from the mount's root) at a place of the sandbox."""

    source: str
    place: str
    access: Access


def inside(path: str) -> str:
    """What an absolute path of the mount tree, without `..`, is called in a sandbox."""
    if path == "/":
        return NEXUS
    top = path.split("/")[1]
    return NEXUS + path if RESERVED.fullmatch(top) else path


async def binds_of(files: ToolFiles, grants: Sequence[Grant]) -> list[Bind]:
    """The binds that give a sandbox its grants, outer ones first; absent paths are left out.

    Of two grants the longer path decides.
    """
    ordered = sorted(grants, key=lambda grant: (grant.path.count("/"), grant.path))
    whole = next((grant for grant in ordered if grant.path == "/"), None)
    binds: list[Bind] = []
    if whole is None:
        binds += [Bind(tree, NEXUS + tree, "rw") for tree in CONTROL_TREES]
    else:
        binds.append(Bind("/", NEXUS, whole.access))
        binds += [Bind(path, path, whole.access) for path in await _top_directories(files)]
    for grant in ordered:
        if grant is whole or not await is_directory(files, grant.path):
            continue
        if whole is not None:
            binds.append(Bind(grant.path, NEXUS + grant.path, grant.access))
        if whole is None or not inside(grant.path).startswith(f"{NEXUS}/"):
            binds.append(Bind(grant.path, inside(grant.path), grant.access))
    return binds


async def rules_of(files: ToolFiles, grants: Sequence[Grant]) -> list[Bind]:
    """The same grants where rights can only be added: a path with an exception is spelled out.

    What is made directly in a path that has exceptions gets no rights to write.
    """
    exact = {grant.path: grant.access for grant in grants}
    rules: list[Bind] = []
    ahead = list(exact.items()) + [(tree, "rw") for tree in CONTROL_TREES if "/" not in exact]
    while ahead:
        path, access = ahead.pop()
        below = f"{path.rstrip('/')}/"
        narrower = [one for one in exact if one.startswith(below) and one != path]
        if access == "r" or not narrower:
            rules.append(Bind(path, path, access))
            continue
        rules.append(Bind(path, path, "r"))
        for entry in await files.list_dir(path):
            child = below + entry.name.decode("utf-8", "surrogateescape")
            if child not in exact:
                ahead.append((child, access))
    return sorted(rules, key=lambda rule: rule.source)


async def _top_directories(files: ToolFiles) -> list[str]:
    found = []
    for entry in await files.list_dir("/"):
        path = posixpath.join("/", entry.name.decode("utf-8", "surrogateescape"))
        if not RESERVED.fullmatch(path[1:]) and await is_directory(files, path):
            found.append(path)
    return sorted(found)[:AT_THEIR_PLACE]


async def is_directory(files: ToolFiles, path: str) -> bool:
    """True for a directory that the caller can see, and no symlink to one."""
    try:
        return (await files.stat(path, follow=False)).is_dir
    except KernelError:
        return False
