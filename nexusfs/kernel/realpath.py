"""Where granted paths really lead, found out when an agent is spawned."""

import posixpath

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError, SymlinkLoopError
from nexusfs.contracts.rights import Grant
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.vfs.namei import SYMLINKS_MAX


async def real_path(calls: Syscalls, cred: Credentials, path: str) -> str:
    """A plain path without symlinks; from the first name that cannot be seen on, as it is.

    SymlinkLoopError ELOOP.
    """
    ahead = [name for name in path.split("/") if name]
    done: list[str] = []
    links = 0
    while ahead:
        name = ahead.pop(0)
        if name in ("", ".", ".."):
            done = done[:-1] if name == ".." else done
            continue
        here = "/" + "/".join([*done, name])
        try:
            st = await calls.sys_stat(cred, here, follow=False)
            target = await calls.sys_readlink(cred, here) if st.is_link else None
        except KernelError:
            return posixpath.normpath("/".join([here, *ahead]))
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > SYMLINKS_MAX:
            raise SymlinkLoopError(f"too many symlinks: {path!r}")
        text = target.decode("utf-8", "surrogateescape")
        done = [] if text.startswith("/") else done
        ahead = text.split("/") + ahead
    return "/" + "/".join(done)


async def with_real_paths(calls: Syscalls, cred: Credentials, spec: AgentSpec) -> AgentSpec:
    """The spec, the paths that it grants without symlinks: these could be turned elsewhere."""
    changes: dict[str, object] = {}
    if spec.paths is not None:
        changes["paths"] = await _real(calls, cred, spec.paths)
    if spec.delegate is not None and spec.delegate.paths is not None:
        paths = await _real(calls, cred, spec.delegate.paths)
        changes["delegate"] = spec.delegate.model_copy(update={"paths": paths})
    if not changes:
        return spec
    asked = spec.model_fields_set  # what was given decides what overrides an installed agent's
    changed = spec.model_copy(update=changes)
    changed.__pydantic_fields_set__ = set(asked)
    return changed


async def _real(calls: Syscalls, cred: Credentials, grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
    return tuple([
        one.model_copy(update={"path": await real_path(calls, cred, one.path)}) for one in grants
    ])  # fmt: skip
