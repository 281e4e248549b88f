"""Unmounting, and what a killed daemon leaves behind."""

import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)


def is_dead(mountpoint: Path) -> bool:
    """True for a mount point whose daemon died (ENOTCONN).

    statvfs always asks the daemon; stat may be answered from Linux's cache for an hour.
    """
    try:
        os.statvfs(mountpoint)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def unmount_dead(mountpoint: Path) -> None:
    """Lazily unmounts what a killed daemon left at the mount point."""
    if is_dead(mountpoint):
        log.warning("%s: unmounting what a dead daemon left", mountpoint)
        run_unmount(mountpoint, lazy=True)


def run_unmount(mountpoint: Path, *, lazy: bool = False) -> str:
    """Unmounts with umount as root, else with fusermount3; empty, or what went wrong. Blocks."""
    if os.geteuid() == 0:
        command = ["umount", *(["-l"] if lazy else []), "--", str(mountpoint)]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()
