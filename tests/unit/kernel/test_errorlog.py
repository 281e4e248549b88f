"""What is kept of errors."""

from pathlib import Path

import pytest

from nexusfs.contracts.errors import InvalidError
from nexusfs.kernel.errorlog import KEPT_PER_USER, MESSAGE_CHARS, ErrorLog
from tests.kernel_fixture import ALICE
from tests.unit.services.running import world


def test_of_an_error_that_quotes_4_mib_its_beginning_is_kept() -> None:
    log = ErrorLog()
    for _ in range(KEPT_PER_USER):
        log.add(ALICE, "/p" * 100_000, "write", InvalidError("a" * (4 << 20)))

    lines = log.lines(ALICE)

    assert len(lines) < KEPT_PER_USER * (2 * MESSAGE_CHARS + 200)
    assert lines.count(b"\n") == KEPT_PER_USER and "a…".encode() in lines


async def test_of_a_verb_of_1_mib_the_beginning_is_said(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.play(mode="chat")

        with pytest.raises(InvalidError, match="unknown verb") as caught:
            await w.files.write_file(f"/proc/{agent.pid}/ctl", b"a" * (1 << 20) + b"\n")

        assert len(str(caught.value)) < 1000
