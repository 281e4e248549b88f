"""One client of the kills: works until the daemon is gone, then says how far it came, and waits.

`python -m tests.torture.kill_client NAME MNT SHADOW SEED`. For each line on stdin one round; after
each a line of JSON on stdout: {"done", "pending": the operation that was under way, "records": the
numbers of the acknowledged lines in the log that all clients share, "fault"}.
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from tests.torture.load import Op, do, random_op

GONE = ("ENOTCONN", "ECONNABORTED")
LOG = "shared-log"
RECORD_ODDS = 10
"""One operation in so many is a line in the log."""


class Client:
    """The state of one client over all rounds."""

    def __init__(self, name: str, mnt: Path, shadow: Path, seed: int) -> None:
        self.mnt, self.shadow = mnt, shadow
        self._name = name
        self._random = random.Random(f"{seed} {name}")
        self._count = 0
        self._records: list[int] = []

    def round(self) -> dict[str, Any]:
        """Works until the daemon is gone, or until something is wrong."""
        done = 0
        self._records = []
        while True:
            if self._random.randrange(RECORD_ODDS) == 0:
                if self._record():
                    return self._answer(done, None)
            else:
                op = random_op(self._random)
                said = do(op, self.mnt / self._name)
                if said in GONE:
                    return self._answer(done, op)
                expected = do(op, self.shadow / self._name)
                if said != expected:
                    return self._answer(
                        done, op, f"{op}: {said or 'ok'}, the host {expected or 'ok'}"
                    )
            done += 1

    def _record(self) -> bool:
        """Appends one line to the log of all; true when the daemon is gone."""
        self._count += 1
        line = f"\n{self._name} {self._count} {'.' * self._random.randrange(200)};\n"
        try:
            with open(self.mnt / LOG, "ab", buffering=0) as log:
                if log.write(line.encode()) < len(line):
                    return True  # Linux sent it in two requests, and the second met nobody.
                self._records.append(self._count)  # acknowledged, whatever the close says
        except OSError:
            return True
        return False

    def _answer(self, done: int, pending: Op | None, fault: str = "") -> dict[str, Any]:
        return {"done": done, "pending": pending, "records": self._records, "fault": fault}


def main() -> None:
    name, mnt, shadow, seed = sys.argv[1:]
    os.umask(0o022)
    client = Client(name, Path(mnt), Path(shadow), int(seed))
    for _ in sys.stdin:
        print(json.dumps(client.round()), flush=True)


if __name__ == "__main__":
    main()
