"""The work that frameworks are measured by, in our kernel, in process, journal and audit log on.

`python -m tests.bench.thousand STORE COUNT` prints JSON: the seconds of COUNT agents at once with
two turns and a tool each on offline/script, the best and the median of the rounds.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import trio

from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.collector import calm_the_collector
from nexusfs.boot.config import Config
from nexusfs.boot.first_boot import own_credentials
from nexusfs.kernel.bound import BoundSyscalls

ROUNDS = 5
TURNS = [
    {"tool_calls": [{"name": "list_dir", "arguments": {"path": "/bin"}}]},
    {"content": "done"},
]


async def run(store: Path, count: int) -> list[float]:
    script = store.parent / "two-turns.json"
    script.write_text(json.dumps(TURNS))
    spec = {"model": f"offline/script:{script}", "task": "go"}
    options = BootOptions(store, Config.model_validate({}), store.parent / "no-config.toml")
    taken = []
    async with running_kernel(options) as kernel:
        nexus = BoundSyscalls(kernel.syscalls, own_credentials())
        calm_the_collector()
        await nexus.sys_proc_wait((await nexus.sys_proc_spawn(spec)).pid)
        for _ in range(ROUNDS):
            began = time.perf_counter()
            pids = [(await nexus.sys_proc_spawn(spec)).pid for _ in range(count)]
            ends = [await nexus.sys_proc_wait(pid) for pid in pids]
            taken.append(time.perf_counter() - began)
            assert all(end.exit_code == 0 for end in ends)
    return taken


if __name__ == "__main__":
    seconds = trio.run(run, Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"best": min(seconds), "median": statistics.median(seconds)}))
