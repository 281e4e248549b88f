"""What is kept of errors."""

from nexusfs.contracts.errors import InvalidError
from nexusfs.kernel.errorlog import KEPT_PER_USER, MESSAGE_CHARS, ErrorLog
from tests.kernel_fixture import ALICE


def test_of_an_error_that_quotes_4_mib_its_beginning_is_kept() -> None:
    log = ErrorLog()
    for _ in range(KEPT_PER_USER):
        log.add(ALICE, "/p" * 100_000, "write", InvalidError("a" * (4 << 20)))

    lines = log.lines(ALICE)

    assert len(lines) < KEPT_PER_USER * (2 * MESSAGE_CHARS + 200)
    assert lines.count(b"\n") == KEPT_PER_USER and "a…".encode() in lines
