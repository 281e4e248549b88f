"""The commands around a mount: mount, umount, doctor."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from mount.unmount import is_dead, run_unmount
from nexusfs.boot import environment

UMOUNT_WAIT_S = 30.0


@click.command(
    epilog="\b\nExamples:\n  nexusfs mount ~/nexus\n"
    "  nexusfs mount /mnt/nexus --store /srv/nexus --allow-other"
)
@click.argument("mnt", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), help="Directory of the store."
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground and log to stderr.")
@click.option("--allow-other", is_flag=True, help="Let other users, and containers, use the mount.")
@click.option(
    "-o", "options", multiple=True, help="allow_other, auto_unmount, store=DIR (as in fstab)."
)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Configuration file."
)
def mount(
    mnt: Path, store: Path | None, foreground: bool, allow_other: bool, options: tuple[str, ...],
    config: Path | None,
) -> None:  # fmt: skip
    """Mount a store at MNT, and return when the mount answers."""
    misplaced = environment.misplaced_keys()
    if misplaced:
        raise click.ClickException(
            f"{misplaced}: give keys by the providers' own variables (OPENAI_API_KEY, ...), or in "
            "[keys] of the configuration file"
        )
    if config is not None and not config.is_file():
        raise click.ClickException(f"no configuration file at {config}")
    fstab = _fstab_options(options)
    store = (
        store or (Path(fstab["store"]) if "store" in fstab else environment.default_store())
    ).absolute()
    if not is_dead(mnt) and not mnt.is_dir():  # in this order: is_dir raises for a dead mount
        raise click.ClickException(f"{mnt} is not a directory: mkdir it first")
    for path in (store, config):
        if path is not None and path.resolve().is_relative_to(mnt.resolve()):
            raise click.ClickException(f"{path} is below the mount point {mnt}: keep it elsewhere")
    if _is_mounted(mnt):
        raise click.ClickException(f"{mnt} is a mount point already: nexusfs umount {mnt}")
    path = config or environment.config_path()
    read_end, write_end = os.pipe()
    env_fd = environment.sealed_environment()
    told = {
        "mountpoint": str(mnt.absolute()), "store": str(store), "config": str(path.absolute()),
        "allow_other": allow_other or "allow_other" in fstab,
        "auto_unmount": "auto_unmount" in fstab, "foreground": foreground,
        "log_file": str(store / "nexusfs.log"), "env_fd": env_fd, "ready_fd": write_end,
        "key_names": environment.key_names(),
    }  # fmt: skip
    command = [sys.executable, "-m", "mount.daemon", json.dumps(told)]
    os.set_inheritable(env_fd, True)
    os.set_inheritable(write_end, True)
    if foreground:
        os.execve(sys.executable, command, environment.daemon_environment())
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(store / "nexusfs.log", "ab") as log:
        subprocess.Popen(
            command,
            env=environment.daemon_environment(),
            pass_fds=(env_fd, write_end),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8", errors="replace") as answer:
        text = answer.read()
    word, _, warnings = text.partition("\n")
    if word != "ok":
        raise click.ClickException(text or f"the daemon died; see {store / 'nexusfs.log'}")
    for warning in warnings.splitlines():
        click.echo(f"nexusfs: {warning}", err=True)


@click.command(epilog="\b\nExamples:\n  nexusfs umount ~/nexus\n  nexusfs umount -l ~/nexus")
@click.argument("mnt", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Detach even when files are open.")
def umount(mnt: Path, lazy: bool) -> None:
    """Unmount MNT; returns when the daemon is gone and the store is free."""
    mnt = mnt.absolute()
    pid = 0 if is_dead(mnt) else _daemon_pid(mnt)
    fault = run_unmount(mnt, lazy=lazy or pid == 0)
    if "busy" in fault:
        fault += (
            f": close what is open there (fuser -vm {mnt} names it), or nexusfs umount -l {mnt}"
        )
    if fault:
        raise click.ClickException(fault)
    if pid and lazy:  # open files keep the connection alive: tell the daemon
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + UMOUNT_WAIT_S
    while pid and _alive(pid):
        if time.monotonic() > deadline:
            raise click.ClickException(f"unmounted, but the daemon {pid} has not ended yet")
        time.sleep(0.01)


@click.command(epilog="\b\nExample:\n  nexusfs doctor")
def doctor() -> None:
    """Say what this machine lacks to mount, and how to get it; 1 when something is missing."""
    checks = [
        ("/dev/fuse", os.path.exists("/dev/fuse"), "modprobe fuse; or --device /dev/fuse"),
        ("/dev/fuse can be opened", _opens("/dev/fuse"), "chmod 666 /dev/fuse, or be root"),
        ("fusermount3", shutil.which("fusermount3") is not None, "apt-get install fuse3"),
        ("allow_other for users", os.geteuid() == 0 or _user_allow_other(),
         "echo user_allow_other >> /etc/fuse.conf (only for --allow-other)"),
        ("bubblewrap", shutil.which("bwrap") is not None,
         "apt-get install bubblewrap (only for exec and python; without it Landlock holds less)"),
        ("memfd", hasattr(os, "memfd_create"), "Linux 3.17 or newer"),
    ]  # fmt: skip
    missing = False
    for name, ok, cure in checks:
        optional = "only for" in cure
        missing = missing or not (ok or optional)
        word = "ok" if ok else "missing, optional" if optional else "MISSING"
        click.echo(f"{name}: {word}" + ("" if ok else f" - {cure}"))
    sys.exit(1 if missing else 0)


def _fstab_options(options: tuple[str, ...]) -> dict[str, str]:
    """`-o a,b=c` as a dictionary; what fstab adds for itself is dropped."""
    pairs = (part.partition("=") for option in options for part in option.split(",") if part)
    found = {key: value for key, _, value in pairs}
    for key in ("rw", "auto", "noauto", "user", "nofail", "_netdev", "nosuid", "nodev", "defaults"):
        found.pop(key, None)
    unknown = sorted(set(found) - {"allow_other", "auto_unmount", "store"})
    if unknown:
        raise click.ClickException(
            f"unknown mount option {unknown[0]!r}: allow_other, auto_unmount, store=DIR"
        )
    return found


def _is_mounted(mnt: Path) -> bool:
    return not is_dead(mnt) and os.path.ismount(mnt)


def _daemon_pid(mnt: Path) -> int:
    """The daemon's pid from sys/mounts; 0 when the mount is not ours or does not answer."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        for line in (mnt / "sys" / "mounts").read_text().splitlines():
            return int(json.loads(line)["pid"])
    raise click.ClickException(f"{mnt} is not a NexusFS mount")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def _user_allow_other() -> bool:
    with contextlib.suppress(OSError):
        lines = Path("/etc/fuse.conf").read_text().splitlines()
        return any(line.strip() == "user_allow_other" for line in lines)
    return False
