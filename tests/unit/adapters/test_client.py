import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from nexusfs.adapters.client import (
    ClientError,
    Ended,
    Mount,
    find_mount,
    mounted_paths,
    parse_status,
)


def test_a_directory_below_the_mount_point_finds_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "bin")

    assert find_mount().root == tree


def test_a_given_path_that_is_no_mount_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=f"nexusfs mount {tmp_path}") as caught:
        find_mount(tmp_path)

    assert caught.value.errno == errno.ENODEV


def test_the_mount_table_names_nexusfs_alone_and_blanks_are_octal() -> None:
    table = (
        "/dev/sda1 / ext4 rw 0 0\n"
        "nexusfs /home/me/my\\040agents fuse.nexusfs rw 0 0\n"
        "nexusfs /mnt/plain fuse rw 0 0\n"
        "sshfs /mnt/other fuse.sshfs rw 0 0\n"
        "\n"
    )

    assert mounted_paths(table) == [Path("/home/me/my agents"), Path("/mnt/plain")]


def test_a_status_value_may_have_colons() -> None:
    assert parse_status("Name:\ta\nWchan:\ttool:grep\nnonsense\n") == {
        "Name": "a",
        "Wchan": "tool:grep",
    }


def test_a_process_that_vanishes_while_listing_is_left_out(
    tree: Path, add_process: Callable[..., None]
) -> None:
    add_process(2)
    (tree / "proc" / "3").mkdir()

    assert [status["Pid"] for status in Mount(tree).statuses()] == ["2"]


def test_wait_reads_pid_code_and_reason(tree: Path, add_process: Callable[..., None]) -> None:
    add_process(7)
    (tree / "proc/7/wait").write_text("7 -15 wrong branch\n")

    assert Mount(tree).wait(7) == Ended(7, -15, "wrong branch")


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 3), (-2, 130), (-9, 137), (-15, 143)])
def test_a_signal_is_128_and_its_number_for_a_shell(code: int, status: int) -> None:
    assert Ended(2, code, "").shell_status == status


def test_a_process_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(ClientError, match=r"^no process 99$"):
        Mount(tree).wait(99)


def test_an_error_is_always_one_line() -> None:
    assert str(ClientError(errno.EINVAL, "one\n  two\n")) == "one two"
