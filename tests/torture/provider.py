"""A provider that misbehaves, and what it leaves behind in the daemon and the worker."""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuse.conftest import NEXUSFS, Mounts
from tests.fuse.shell import ctl, daemon, read, request, until

PROVIDER_CALLS = 1000
WARM = 100
"""Agents before the first measurement: imports, caches and pools have their size then.

A run of fewer than PROVIDER_CALLS looks at how agents end, and not at what grew.
"""
AT_ONCE = 50
IDLE_S = 11.0
"""What pools keep an idle connection or thread for, and a second."""
GROWTH_MB = 24.0
"""Allowed over 1,000 calls: ended agents stay in memory, and allocators keep some."""


class Provider:
    """mock-llm in a process of its own, whose script can be added to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "requests.jsonl"
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def serve(self, scripts: Path) -> None:
        """Serves the scripts of a directory: each conversation by the agent's name in its task."""
        conversations = []
        for path in sorted(scripts.glob("a*-*.json")):
            turns = json.loads(path.read_text())
            conversations.append({"match": f"{path.stem}", "turns": turns})
        conversations.sort(key=lambda one: -len(one["match"]))
        self.play({"conversations": conversations})

    def play(self, script: dict[str, Any]) -> None:
        """Serves this script from now on, at the same port."""
        self.close()
        file = self._directory / "script.json"
        file.write_text(json.dumps(script))
        command = [NEXUSFS, "mock-llm", "--script", str(file), "--port", str(self.port),
                   "--log", str(self._log)]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        address = self._process.stdout.readline().split()[-1]
        self.port = int(re.findall(r":(\d+)/", address)[0])

    def model_of(self, name: str, script: Path) -> dict[str, Any]:
        """The part of a spec that makes an agent talk to this provider."""
        if not self.port:
            self.play({"conversations": []})
        return {"model": "openai/any", "model_settings": self.settings}

    @property
    def settings(self) -> dict[str, Any]:
        """litellm's options."""
        return {"api_base": f"http://127.0.0.1:{self.port}/v1", "timeout": 60}

    def served(self) -> int:
        """How many requests came to an end so far, of all servers."""
        return self._log.read_bytes().count(b"\n") if self._log.exists() else 0

    def refused(self) -> list[str]:
        """Why requests were refused as no provider would take them."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        rows = [json.loads(line) for line in lines]
        return [r["why"] for r in rows if r["outcome"] == "status 400" and "messages[" in r["why"]]

    def close(self) -> None:
        """Ends the server."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            assert self._process.stdout
            self._process.stdout.close()
            self._process = None


@contextmanager
def endpoint(directory: Path) -> Iterator[Provider]:
    """A provider that ends with the block."""
    made = Provider(directory)
    try:
        yield made
    finally:
        made.close()


TROUBLE: dict[str, tuple[dict[str, Any], str]] = {
    "fine": ({"content": "fine"}, "0 done"),
    "hangs": ({"hang": True}, "-9 enough"),
    "cut": ({"content": "only a part of it", "cut_after": 2, "times": None}, "1 model:"),
    "ends": ({"content": "only a part of it", "end_after": 2}, "1 model:"),
    "garbage": ({"garbage": "<html>busy</html>"}, "1 model:"),
    "limited": ({"status": 429, "retry_after_s": 0.1, "times": 2, "content": "at last"}, "0 done"),
    "locked": ({"error": {"message": "wrong key", "status": 401}}, "1 model:"),
    "down": ({"error": {"message": "down", "status": 503}}, "1 model:"),
}
"""What the provider does, by a word in the task, and how such an agent ends."""


MINUTE = {"status": 429, "retry_after_s": 20, "times": 3, "content": "at last"}
"""A minute of 429; only in runs of PROVIDER_CALLS and more."""


def _conversation(word: str, turn: dict[str, Any]) -> dict[str, Any]:
    look = {"tool_calls": [{"name": "list_dir", "arguments": {"path": "/bin"}}]}
    kept = {key: value for key, value in turn.items() if value is not None}
    return {"match": f"{word} ", "turns": [look, kept]}


def provider(calls: int, seed: int) -> tuple[bool, str]:
    """So many agents, each of whose second calls meets some trouble; then nothing may be left."""
    chance, whole = random.Random(seed), calls >= PROVIDER_CALLS
    with (
        tempfile.TemporaryDirectory(prefix="nexusfs-torture-") as made,
        endpoint(Path(made)) as far,
    ):
        mounts = Mounts(Path(made))
        turns = {"minute": MINUTE, **{word: turn for word, (turn, _) in TROUBLE.items()}}
        far.play({"conversations": [_conversation(w, t) for w, t in turns.items()]})
        try:
            environment = {"NEXUSFS_SLOTS_PER_OWNER": str(AT_ONCE), "NEXUSFS_RETAIN_COUNT": "2000",
                           "OPENAI_API_KEY": "sk-x"}  # fmt: skip
            mnt = mounts.mount(env=environment)
            faults = _rounds(mnt, far, chance, WARM if whole else 2)
            patient = _spawn(mnt, far, "minute") if whole else 0
            before = _left(mnt, far) if whole else {}
            began = time.monotonic()
            faults += _rounds(mnt, far, chance, calls)
            took = time.monotonic() - began
            faults += _ends(mnt, {patient: "limited"}) if patient else []
            after = _left(mnt, far) if whole else {}
        finally:
            mounts.close()
    faults += _growth(before, after) if whole else []
    line = f"{calls} agents in {took:.0f} s; before {before}, after {after}; {len(faults)} faults"
    return not faults, "; ".join([line, *faults[:5]])


def _spawn(mnt: Path, far: Provider, word: str) -> int:
    spec = {"model": "openai/any", "model_settings": far.settings, "task": f"{word} please"}
    failed, text = request(mnt / "proc/spawn", spec)
    assert not failed, text
    return int(text)


def _rounds(mnt: Path, far: Provider, chance: random.Random, calls: int) -> list[str]:
    """Agents in groups; how those ended that should have ended otherwise, as sentences."""
    faults = []
    for first in range(0, calls, AT_ONCE):
        group: dict[int, str] = {}
        for _ in range(min(AT_ONCE, calls - first)):
            word = chance.choice(list(TROUBLE))
            group[_spawn(mnt, far, word)] = word
        faults += _ends(mnt, group)
    return faults


def _ends(mnt: Path, group: dict[int, str]) -> list[str]:
    hanging = [pid for pid, word in group.items() if word == "hangs"]
    until(lambda: all(_asks_again(mnt, pid) for pid in hanging), 120)
    faults = [f"{pid} hangs, and wchan says {read(mnt, pid, 'wchan')!r}" for pid in hanging
              if read(mnt, pid, "wchan") != "model\n"]  # fmt: skip
    for pid in hanging:
        ctl(mnt, pid, "kill enough")
    until(lambda: all(read(mnt, pid, "exit_code") for pid in group), 180)
    for pid, word in group.items():
        status = dict(x.split(":\t", 1) for x in read(mnt, pid, "status").splitlines())
        ended = f"{status['ExitCode']} {status['Reason']}"
        if not ended.startswith(TROUBLE[word][1]):
            faults.append(f"{pid} ({word}) ended with {ended!r}")
    return faults


def _asks_again(mnt: Path, pid: int) -> bool:
    return read(mnt, pid, "events").count('"model_call"') == 2


def _settle(mnt: Path, far: Provider) -> None:
    """Waits until nothing is under way, and idle connections and threads of pools have gone.

    They go when one is asked for after IDLE_S: httpx and anyio look then.
    """
    for _ in range(2):
        until(lambda: _gauges(mnt)["model_slots_in_use"] == 0)
        time.sleep(IDLE_S)
        _ends(mnt, {_spawn(mnt, far, "fine"): "fine"})
    until(lambda: _gauges(mnt)["model_slots_in_use"] == 0)


def _gauges(mnt: Path) -> dict[str, float]:
    lines = (mnt / "sys/sessions").read_text().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


def _left(mnt: Path, far: Provider) -> dict[str, float]:
    """Descriptors, threads and memory of the daemon and of its worker, when all is quiet."""
    _settle(mnt, far)
    pid = daemon(mnt)
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found: dict[str, float] = {"slots": _gauges(mnt)["model_slots_in_use"]}
    for name, number in (("daemon", pid), ("worker", int(child))):
        found[f"{name}_fds"] = len(list(Path(f"/proc/{number}/fd").iterdir()))
        status = Path(f"/proc/{number}/status").read_text()
        found[f"{name}_threads"] = int(status.partition("Threads:")[2].split()[0])
        found[f"{name}_mb"] = round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)
    return found


def _growth(before: dict[str, float], after: dict[str, float]) -> list[str]:
    faults = []
    for name, value in after.items():
        allowed = GROWTH_MB if name.endswith("_mb") else 6
        if value > before[name] + allowed:
            faults.append(f"{name} grew from {before[name]:g} to {value:g}")
    return faults


if __name__ == "__main__":
    ok, told = provider(PROVIDER_CALLS, 1)
    print(told)
    sys.exit(0 if ok else 1)
