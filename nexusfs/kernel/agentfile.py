"""Agents as files: Markdown with front matter, installed in /bin or written to /proc/spawn."""

import os
from typing import Any

from nexusfs.contracts.agent import CLAUDE_FIELDS, SPEC_LIMIT_BYTES, AgentSpec, parse_spec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    InvalidError,
    KernelError,
    NotFoundError,
    NotSpecError,
    TooBigError,
)
from nexusfs.contracts.words import nearest
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.frontmatter import parse_agent_async
from nexusfs.kernel.syscalls import Syscalls


async def agent_from_markdown(data: bytes) -> tuple[AgentSpec, list[str]]:
    """The spec of an agent file, the body being its instructions, and what of it was dropped.

    Raises:
        NotSpecError: ENOEXEC, no front matter.
        InvalidError: EINVAL, a mistake in it.
    """
    raw, body = await parse_agent_async(data)
    dropped = [f"{key}: has no meaning here" for key in raw if key in CLAUDE_FIELDS]
    kept = {key: value for key, value in raw.items() if key not in CLAUDE_FIELDS}
    return parse_spec(_with_body(kept, body)), dropped


def _with_body(raw: dict[str, Any], body: str) -> dict[str, Any]:
    if body:
        for key in ("instructions", "system_prompt", "prompt"):
            if key in raw:
                raise InvalidError(
                    f"the body is the instructions: leave {key!r} out of the front matter"
                )
        raw = {**raw, "instructions": body}
    return raw


async def load_installed(calls: Syscalls, cred: Credentials, name: str) -> AgentSpec:
    """The spec of /bin/`name`.md, read with the rights of the caller's user.

    An agent's paths do not matter: what it may start is said by what it may hand on.

    Raises:
        NotFoundError: ENOENT, not installed. AccessError: EACCES, not executable or not readable.
        NotSpecError: ENOEXEC, the file is no agent.
    """
    path = f"/bin/{name}.md"
    cred = cred.through("kernel")
    try:
        executable = await calls.sys_access(cred, path, os.X_OK)
    except NotFoundError:
        near = nearest(name, await _installed(calls, cred))
        hint = f"did you mean {near!r}?" if near else f"put it at {path} and chmod +x it"
        raise NotFoundError(f"no agent {name!r} in /bin: {hint}") from None
    if not executable:
        raise AccessError(f"{path} is not executable: chmod +x it to install the agent")
    data = await BoundSyscalls(calls, cred).read_file(path, size=SPEC_LIMIT_BYTES + 1)
    if len(data) > SPEC_LIMIT_BYTES:
        raise TooBigError(f"{path}: an agent may have 4 MiB")
    try:
        spec, _ = await agent_from_markdown(data)
    except KernelError as exc:
        raise NotSpecError(f"{path}: {exc}") from None
    return spec.model_copy(update={"agent": name, "name": spec.name or name})


async def _installed(calls: Syscalls, cred: Credentials) -> list[str]:
    """Names of the files in /bin that could be agents."""
    try:
        entries = await calls.sys_readdir(cred, "/bin")
    except KernelError:
        return []
    names = (entry.name.decode("utf-8", "replace") for entry in entries[:1000])
    return [name.removesuffix(".md") for name in names if name.endswith(".md")]
