"""What a new store holds: the directories of the tree, a README, and a few agents."""

import contextlib
import os

from nexusfs.boot.first_agents import AGENTS
from nexusfs.boot.kernel import Backing
from nexusfs.contracts.audit import AuditLog
from nexusfs.contracts.cred import KERNEL_CRED, Credentials
from nexusfs.contracts.errors import ExistsError, NotFoundError
from nexusfs.contracts.node import Change
from nexusfs.fs.auditfs import AUDIT_DIR, AUDIT_NAME, AuditNode
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.syscalls import Syscalls

DIRECTORIES = {"/bin": 0o755, "/etc": 0o755, "/home": 0o755, "/var": 0o755, "/var/log": 0o755}
TMP_MODE = 0o1777

README = b"""This directory is NexusFS: agents, tools and files behind one mount.

Run an agent, wait for it, read its answer:

    exec 3<>proc/spawn
    echo '{"task": "list /bin"}' >&3; read -r pid <&3; exec 3>&-
    cat proc/$pid/wait proc/$pid/result

or start an installed agent (bin/*.md, executable) and follow it:

    echo 'assistant what is in README?' > proc/spawn
    cat proc/.last/stdout_pipe

Look at an agent, talk to it, end it:

    cat proc/2/status                     # its state
    cat proc/2/events                     # everything that happened to it, as JSON Lines
    cat proc/2/messages.jsonl             # the conversation
    echo 'and now?' > proc/2/stdin        # a message for a chat agent
    echo 'term enough' > proc/2/ctl       # read ctl for its verbs

Hand out work and collect it; bin/copilot.md does the same for you:

    echo '{"message": "summarise /README", "worker": "researcher"}' > proc/1/delegate
    cat proc/1/tasks/.last/events_pipe    # submitted, working, progress, completed
    cat proc/1/tasks/.last/result         # and echo 'cancel' > proc/1/tasks/.last/ctl

Run a tool yourself; what an agent's tool can do, you can:

    cat dispatch/grep                     # its manual
    echo '{"pattern": "agent", "path": "/README"}' > dispatch/grep
    cat dispatch/.last

When a write fails, the last line of sys/error_log says what to write instead.
sys/ also has version, config, models, metrics, services, mounts and sessions.
Everything else here is ordinary files: they stay when the mount goes.
"""


async def populate(calls: Syscalls, cred: Credentials) -> None:
    """Fills a store whose root is empty; does nothing to any other."""
    bound = BoundSyscalls(calls, cred)
    mounted = set(calls.vfs.mounts.trees)
    if [entry for entry in await bound.list_dir("/") if entry.name not in mounted]:
        return
    for path, mode in DIRECTORIES.items():
        await calls.sys_mkdir(cred, path, mode)
    for name, text in AGENTS.items():
        await bound.write_file(f"/bin/{name}.md", text)
        await calls.sys_setattr(cred, f"/bin/{name}.md", Change(mode=0o755))
    await bound.write_file("/README", README)


async def make_tmp(calls: Syscalls, cred: Credentials) -> None:
    """Makes /tmp, where tools keep what is too long for a reply; one that is there stays."""
    with contextlib.suppress(ExistsError):
        await calls.sys_mkdir(cred, "/tmp", TMP_MODE)


async def mount_audit(calls: Syscalls, log: AuditLog, backing: Backing) -> None:
    """Puts the audit log at /var/log/audit.jsonl, over an empty file that keeps its directory."""
    bound = BoundSyscalls(calls, KERNEL_CRED)
    await bound.make_dirs(AUDIT_DIR)
    path = f"{AUDIT_DIR}/{AUDIT_NAME.decode()}"
    try:
        await bound.stat(path)
    except NotFoundError:
        await bound.write_file(path, b"")
    directory, _ = await bound.sys_lookup(AUDIT_DIR)
    node = AuditNode(log, backing.uid, backing.gid)
    await calls.vfs.mounts.mount_file(directory, AUDIT_NAME, node)


def own_credentials() -> Credentials:
    """The user that this process runs as."""
    return Credentials(os.getuid(), os.getgid(), groups=frozenset(os.getgroups()))
