"""Providers' keys inside the worker: where from, to whom, and how text is rid of them."""

import io
import json
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger(__name__)

HIDDEN = "***"
NO_KEY = "no-key"
"""Sent to an endpoint that a call names itself: some clients refuse to start without any key."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|ghp|key)[-_][A-Za-z0-9_\-*.]{6,}|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?<=Bearer )[^\s\"']{6,}"
)
_SHORTEST_SECRET = 6
_BASE_NAME = re.compile(r"(_API_BASE|_BASE_URL)$")


def environment_of(fd: int) -> dict[str, str]:
    """The JSON object in a memfd, read from its start wherever its offset is; may be read again."""
    size = os.fstat(fd).st_size
    data = b""
    while len(data) < size:
        more = os.pread(fd, size - len(data), len(data))
        if not more:
            break
        data += more
    return {str(name): str(value) for name, value in json.loads(data).items()}


def configured_keys(path: str | None) -> dict[str, str]:
    """The table `[keys]` of a TOML file; empty when there is none or it is bad (logged)."""
    if not path or not Path(path).is_file():
        return {}
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("keys", {})
        return {str(name): str(value) for name, value in table.items()}
    except (OSError, ValueError, AttributeError) as exc:
        log.warning("no keys from %s: %s", path, type(exc).__name__)
        return {}


class Keys:
    """Which key goes where, and which strings must never leave the worker.

    A name in `[keys]` is an environment variable (`OPENAI_API_KEY`) or the base address of an
    endpoint (`"http://10.0.0.7:8000/v1"`). A call may name its own `api_base`; since anybody who
    may spawn an agent may, the environment's keys are not sent there, unless the environment itself
    names that address (`OPENAI_API_BASE`): it gets the key that `[keys]` has for it, or none.
    """

    def __init__(self, environment: Mapping[str, str], configured: Mapping[str, str]) -> None:
        """`environment` wins over `configured`."""
        self._by_base = {_base(k): v for k, v in configured.items() if "://" in k}
        names = {k: v for k, v in configured.items() if "://" not in k}
        self.variables = {**names, **environment}
        self._trusted = {_base(v) for k, v in self.variables.items() if _BASE_NAME.search(k)}
        self._secrets = _secrets_of(self.variables, [*names.values(), *self._by_base.values()])

    def for_base(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """`api_key` for a call with these settings; empty when litellm may choose."""
        bases = [str(settings[name]) for name in ("api_base", "base_url") if settings.get(name)]
        untrusted = [base for base in bases if _base(base) not in self._trusted]
        if not untrusted:
            return {}
        keys = {self._by_base.get(_base(base), NO_KEY) for base in untrusted}
        return {"api_key": keys.pop() if len(keys) == 1 else NO_KEY}

    def scrub(self, text: str) -> str:
        """The text with every known secret, and all that looks like one, as `***`."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return _SECRET_TEXT.sub(HIDDEN, text)


def _base(address: str) -> str:
    return address.strip().rstrip("/").lower()


def _secrets_of(variables: Mapping[str, str], more: Iterable[str]) -> list[str]:
    """Longest first, so that a secret inside another one leaves no rest."""
    values = {value for name, value in variables.items() if _SECRET_NAME.search(name)} | set(more)
    return sorted((v for v in values if len(v) >= _SHORTEST_SECRET), key=len, reverse=True)


class ScrubbedStream(io.TextIOBase):
    """A text stream that takes the keys out of all that is written: logs, stray prints."""

    def __init__(self, stream: TextIO, keys: Keys) -> None:
        self._stream = stream
        self._keys = keys

    def write(self, text: str) -> int:
        """Writes the text, scrubbed."""
        self._stream.write(self._keys.scrub(text))
        return len(text)

    def flush(self) -> None:
        """Hands on what is buffered."""
        self._stream.flush()

    def fileno(self) -> int:
        """The descriptor underneath."""
        return self._stream.fileno()
