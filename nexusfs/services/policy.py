"""The rules of /etc/policy.json, which bind every agent beside its own.

{"deny": ["exec(*sudo*)"], "ask": ["exec(git push*)"], "allow": ["exec(git *)"]}
"""

from typing import Any

from nexusfs.contracts.rights import Rules
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.services.trusted_file import TrustedFile

PATH = "/etc/policy.json"
NO_RULES = Rules.model_validate({})


class Policy:
    """Reads the file when it is needed."""

    def __init__(self, calls: Syscalls, uid: int) -> None:
        """The file must be root's or `uid`'s."""
        self._file: TrustedFile[Rules] = TrustedFile(calls, uid, PATH, _parse, NO_RULES)

    async def __call__(self) -> Rules:
        """The rules. AccessError EACCES while the file is there and cannot be trusted."""
        rules = await self._file.read()
        if self._file.fault is not None:
            raise self._file.fault
        return rules


def _parse(body: Any) -> Rules:
    return Rules.model_validate(body)
