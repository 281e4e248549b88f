"""The gate: counted, shut, and nothing unexpected gets out."""

import errno

import pytest
import trio

from nexusfs.contracts.errors import (
    DisconnectedError,
    KernelError,
    NotFoundError,
    ToolFailedError,
    errno_of,
)
from nexusfs.kernel.gate import Gate, syscall


class Door:
    """Three system calls."""

    def __init__(self) -> None:
        self.gate = Gate()

    @syscall
    async def sys_double(self, number: int, *, more: int = 0) -> int:
        """Twice the number."""
        return number * 2 + more

    @syscall
    async def sys_miss(self) -> None:
        """Fails as it should."""
        raise NotFoundError("no such thing")

    @syscall
    async def sys_crash(self) -> None:
        """Fails as it should not."""
        raise ZeroDivisionError("a bug")

    @syscall
    async def sys_sleep(self) -> None:
        """Waits."""
        await trio.sleep_forever()


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_call_passes_with_its_arguments_and_its_result(door: Door) -> None:
    assert await door.sys_double(4, more=1) == 9


async def test_calls_are_counted_by_name(door: Door) -> None:
    for number in range(3):
        await door.sys_double(number)

    assert door.gate.calls == {"sys_double": 3}


async def test_an_error_passes_as_it_is_and_is_counted(door: Door) -> None:
    with pytest.raises(NotFoundError, match="no such thing"):
        await door.sys_miss()

    assert door.gate.errors == {("sys_miss", errno.ENOENT): 1}
    assert door.gate.crashes == 0


async def test_the_unexpected_is_eio_logged_and_counted(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KernelError, match="internal error in sys_crash") as caught:
        await door.sys_crash()

    assert (errno_of(caught.value), door.gate.crashes) == (errno.EIO, 1)
    assert "ZeroDivisionError: a bug" in caplog.text
    caplog.clear()


async def test_a_shut_gate_answers_enotconn_and_counts_nothing(door: Door) -> None:
    door.gate.shut = True

    with pytest.raises(DisconnectedError):
        await door.sys_double(1)

    assert door.gate.calls == {}


async def test_a_cancelled_call_is_no_error(door: Door) -> None:
    with trio.move_on_after(0) as scope:
        await door.sys_sleep()

    assert scope.cancelled_caught
    assert door.gate.errors == {}


async def test_who_was_cancelled_makes_no_more_calls(door: Door) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await door.sys_double(1)

    assert scope.cancelled_caught


def test_a_call_keeps_its_name_and_docstring() -> None:
    assert (Door.sys_miss.__name__, Door.sys_miss.__doc__) == ("sys_miss", "Fails as it should.")


@pytest.mark.parametrize(
    ("exc", "number"),
    [(ToolFailedError("x"), errno.EREMOTEIO), (OSError(errno.ENOENT, "x"), errno.EIO),
     (ValueError("x"), errno.EIO)],
)  # fmt: skip
def test_only_our_own_errors_have_an_errno(exc: Exception, number: int) -> None:
    assert errno_of(exc) == number


def test_every_error_has_an_errno_that_linux_knows() -> None:
    kinds = {KernelError}
    while True:
        more = kinds | {sub for kind in kinds for sub in kind.__subclasses__()}
        if more == kinds:
            break
        kinds = more

    assert all(kind.errno in errno.errorcode for kind in kinds)
