"""The process's environment: the only place that reads os.environ, light enough for the CLI."""

import fcntl
import json
import os
from pathlib import Path

KEYS_VARIABLE = "NEXUSFS_KEYS"

_PASSED_ON = ("HOME", "LANG", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "SSL_CERT_DIR",
              "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")  # fmt: skip
_PASSED_ON_PREFIXES = ("LC_", "NEXUSFS_", "XDG_", "COVERAGE_")
"""What the daemon's own environment keeps; everything else goes to the model worker only."""


def config_path() -> Path:
    """NEXUSFS_CONFIG, or config.toml in the user's configuration directory; need not exist."""
    named = os.environ.get("NEXUSFS_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "nexusfs" / "config.toml"


def default_store() -> Path:
    """The store of the user's data directory."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "nexusfs" / "store"


def state_dir() -> Path:
    """Where logs go: the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "nexusfs"


def daemon_environment() -> dict[str, str]:
    """The part of the environment that the daemon may keep: no key is in it."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
        if not name.startswith(KEYS_VARIABLE)
    }


def sealed_environment() -> int:
    """A descriptor with the whole environment as JSON, for the model worker alone to read.

    Sealed against change; the caller passes it on by number. Source: memfd_create(2).
    """
    fd = os.memfd_create("nexusfs-environment", os.MFD_ALLOW_SEALING)
    os.write(fd, json.dumps(dict(os.environ)).encode())
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def misplaced_keys() -> str | None:
    """The variable that would put keys into the configuration, which must never hold them."""
    return next((name for name in os.environ if name.startswith(KEYS_VARIABLE)), None)


def key_names() -> list[str]:
    """Names, never values, of the environment's variables that look like provider keys."""
    return sorted(
        name for name in os.environ if name.endswith(("_KEY", "_TOKEN", "_ACCESS_KEY_ID"))
    )
