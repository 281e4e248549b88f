"""The worker process alone: it says hello at once, and ends with its kernel."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

COMMAND = [sys.executable, "-P", "-m", "nexusfs.services.llm.worker"]
KERNEL = """
import sys, trio
from nexusfs.contracts.model import ModelCall
from nexusfs.services.llm.client import WorkerClient

async def main():
    client = WorkerClient()
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        nursery.start_soon(client.complete, ModelCall("openai/x", [{"role": "user"}]), None)
        await trio.sleep(0.1)
        print(client.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def gone(pid: int, within_s: float) -> bool:
    """True when the process ends, or is a zombie that nobody reaps, in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def worker() -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([*COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    ours.settimeout(30)
    yield process, ours
    ours.close()
    process.kill()
    process.wait()


def test_hello_comes_before_litellm(worker: tuple[subprocess.Popen[bytes], socket.socket]) -> None:
    process, sock = worker

    with sock.makefile() as lines:
        hello = json.loads(lines.readline())
    with open(f"/proc/{process.pid}/maps") as file:
        mapped = file.read()

    assert hello == {"hello": {"pid": process.pid}}
    assert "_tiktoken" not in mapped


def test_end_of_file_ends_it_even_while_litellm_is_imported(
    worker: tuple[subprocess.Popen[bytes], socket.socket],
) -> None:
    process, sock = worker
    sock.recv(1)

    sock.shutdown(socket.SHUT_RDWR)

    assert process.wait(10) == 0


def test_it_does_not_outlive_a_kernel_that_was_killed() -> None:
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL], stdout=subprocess.PIPE)
    with kernel:
        assert kernel.stdout is not None
        pid = int(kernel.stdout.readline())
        os.kill(kernel.pid, signal.SIGKILL)

    assert gone(pid, 10)
