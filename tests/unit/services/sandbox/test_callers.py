"""Whose a process of the host is: real processes, told by their namespace or their ancestors."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nexusfs.services.sandbox import callers as module
from nexusfs.services.sandbox.callers import NOBODY, UNKNOWN, Callers

GONE = 4_000_001
"""Nobody's pid: Linux counts to 4,194,304, and no machine of tests gets that far."""


@contextmanager
def asleep(script: str = "exec cat") -> Iterator["subprocess.Popen[str]"]:
    """A shell that runs until the end of the block; what it prints first is read."""
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_without_a_sandbox_nobody_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = Callers()
    monkeypatch.setattr(module, "_status", lambda pid: pytest.fail("looked"))

    assert callers.agent_of(GONE) == NOBODY


def test_a_pid_that_linux_does_not_tell_is_nobody_s() -> None:
    callers = Callers()
    callers.add(GONE, 1, 7)

    assert callers.agent_of(0) == NOBODY


def test_a_process_of_our_own_namespace_is_nobody_s() -> None:
    callers = Callers()
    callers.add(GONE, 1, 7)

    assert callers.agent_of(os.getpid()) == NOBODY


def test_a_process_of_a_known_namespace_is_the_agent_s() -> None:
    callers = Callers()
    callers._own_namespace = ""
    callers.add(GONE, os.stat("/proc/self/ns/pid").st_ino, 7)

    assert callers.agent_of(os.getpid()) == 7


def test_a_process_of_another_namespace_goes_by_its_ancestors() -> None:
    callers = Callers()
    callers._own_namespace = ""

    with asleep() as process:
        callers.add(GONE, 1, 7)
        assert callers.agent_of(process.pid) == NOBODY
        callers.add(os.getpid(), 2, 8)
        assert callers.agent_of(process.pid) == 8


def test_a_process_below_a_bare_root_is_the_agent_s_if_it_gains_nothing() -> None:
    callers = Callers()

    with asleep("setpriv --no-new-privs sh -c 'echo $$; exec cat'; :") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        callers.add(process.pid, 0, 7)
        held = callers.agent_of(child)
        free = callers.agent_of(process.pid)

    assert (held, free) == (7, NOBODY)


def test_a_process_that_is_gone_cannot_be_told() -> None:
    callers = Callers()
    callers.add(os.getpid(), 1, 7)

    assert callers.agent_of(GONE) == UNKNOWN


def test_what_was_removed_is_not_known_any_more() -> None:
    callers = Callers()
    callers.add(GONE, 1, 7)
    callers.add(GONE + 1, 0, 8)

    callers.remove(GONE, 1)
    callers.remove(GONE + 1, 0)

    assert len(callers) == 0 and callers.agent_of(GONE) == NOBODY
