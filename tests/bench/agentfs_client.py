"""The work of `in_process` with agentfs-sdk: `python agentfs_client.py DIRECTORY`.

Runs in a virtual environment that has agentfs-sdk and nothing else; prints a line of JSON,
operations a second by name.
"""

import asyncio
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

COUNT = 500
SMALL = b"x" * 1024


async def main(directory: str) -> None:
    sdk = importlib.import_module("agentfs_sdk")  # not there for the type checker

    with tempfile.TemporaryDirectory(dir=directory) as made:
        agent = await sdk.AgentFS.open(sdk.AgentFSOptions(path=str(Path(made) / "agent.db")))
        await agent.fs.mkdir("/home")
        rates = {}
        for name, call in {
            "write": lambda path: agent.fs.write_file(path, SMALL),
            "read": lambda path: agent.fs.read_file(path, encoding=None),
            "stat": agent.fs.stat,
            "unlink": agent.fs.unlink,
        }.items():
            began = time.perf_counter()
            for number in range(COUNT):
                await call(f"/home/f{number}")
            rates[name] = COUNT / (time.perf_counter() - began)
        await agent.close()
    print(json.dumps(rates))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
