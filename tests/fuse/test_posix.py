"""POSIX's rules through the mount, where Linux, the binding and the kernel each do a part."""

import ctypes
import errno
import os
import resource
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nexusfs.contracts.node import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.fuse.conftest import Mounts

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="takes the place of several users"),
]

ALICE, BOB, SHARED = 4001, 4002, 4100
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    made = mounts.mount("a", "--allow-other")
    for path in (*made.parents, made):  # pytest's directories are for their owner alone
        path.chmod(path.stat().st_mode | 0o011)
    return made


@pytest.fixture
def folder(mnt: Path, request: pytest.FixtureRequest) -> Path:
    """A directory for one test that everybody may write to."""
    made: Path = mnt / f"dir-{abs(hash(request.node.name))}"
    made.mkdir()
    made.chmod(0o777)
    return made


def as_user(uid: int, work: Callable[[], object], groups: tuple[int, ...] = ()) -> int:
    """Does `work` in a child of another user; 0, or the errno of the OSError it raises."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.setgroups(list(groups))
            os.setgid(uid)
            os.setuid(uid)
            work()
            status = 0
        except OSError as exc:
            status = exc.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def owned(path: Path, uid: int, mode: int) -> Path:
    path.write_bytes(b"some bytes")
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def renameat2(old: Path, new: Path, flags: int) -> None:
    at_fdcwd = -100
    if _libc.renameat2(at_fdcwd, bytes(old), at_fdcwd, bytes(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_a_truncating_open_by_another_user_takes_the_set_id_bits(folder: Path) -> None:
    path = owned(folder / "f", ALICE, 0o6777)
    assert mode_of(path) == 0o6777

    assert as_user(BOB, lambda: os.open(path, os.O_WRONLY | os.O_TRUNC)) == 0

    assert mode_of(path) == 0o777


def test_a_truncation_by_another_user_takes_the_set_id_bits(folder: Path) -> None:
    path = owned(folder / "f", ALICE, 0o6777)

    assert as_user(BOB, lambda: os.truncate(path, 3)) == 0

    assert mode_of(path) == 0o777


def test_chown_by_root_takes_the_set_id_bits(folder: Path) -> None:
    path = owned(folder / "f", ALICE, 0o6755)

    os.chown(path, BOB, -1)

    assert mode_of(path) == 0o755


def test_whoever_may_write_may_touch_but_not_choose_the_times(folder: Path) -> None:
    path = owned(folder / "f", ALICE, 0o666)
    os.utime(path, ns=(5, 7))
    before = time.time_ns()

    assert as_user(BOB, lambda: os.utime(path, ns=(1, 1))) == 1  # EPERM
    assert as_user(BOB, lambda: os.utime(path)) == 0

    assert path.stat().st_mtime_ns >= before - 10**8  # Linux takes a tick's time
    assert path.stat().st_atime_ns >= before - 10**8


def test_an_owner_sets_times_to_the_nanosecond_even_near_now(folder: Path) -> None:
    path = folder / "f"
    path.touch()
    wanted = time.time_ns() - 123_456_789

    os.utime(path, ns=(wanted, wanted + 1))

    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (wanted, wanted + 1)


def test_supplementary_groups_count(folder: Path) -> None:
    path = owned(folder / "f", ALICE, 0o660)
    os.chown(path, ALICE, SHARED)

    assert as_user(BOB, lambda: os.open(path, os.O_RDWR)) == 13  # EACCES
    assert as_user(BOB, lambda: os.open(path, os.O_RDWR), groups=(SHARED,)) == 0


def test_a_member_may_give_his_file_to_a_group_of_his(folder: Path) -> None:
    path = owned(folder / "f", ALICE, 0o660)

    assert as_user(ALICE, lambda: os.chown(path, -1, SHARED)) == 1  # EPERM
    assert as_user(ALICE, lambda: os.chown(path, -1, SHARED), groups=(SHARED,)) == 0

    assert path.stat().st_gid == SHARED


def test_exchange_and_noreplace(folder: Path) -> None:
    one, other = folder / "one", folder / "other"
    one.write_text("1")
    other.mkdir()

    with pytest.raises(FileExistsError):
        renameat2(one, other, RENAME_NOREPLACE)
    renameat2(one, other, RENAME_EXCHANGE)

    assert one.is_dir()
    assert other.read_text() == "1"


def test_a_new_file_in_a_setgid_directory_runs_for_no_stranger(folder: Path) -> None:
    os.chown(folder, 0, SHARED)
    folder.chmod(0o2777)
    path = folder / "f"

    assert as_user(BOB, lambda: os.open(path, os.O_CREAT | os.O_WRONLY, 0o2711)) == 0

    assert path.stat().st_gid == SHARED
    assert mode_of(path) == 0o711


def test_the_limit_of_file_sizes_binds_writes_and_truncations(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"x" * 1000)

    def limited(work: Callable[[int], object]) -> int:
        def in_child() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            work(os.open(path, os.O_WRONLY))

        return as_user(0, in_child)

    assert limited(lambda fd: os.pwrite(fd, b"x", 4999)) == 0
    assert limited(lambda fd: os.pwrite(fd, b"x", 5000)) == errno.EFBIG
    assert limited(lambda fd: os.ftruncate(fd, 5001)) == errno.EFBIG
    assert path.stat().st_size == 5000


def test_an_attribute_is_made_or_replaced_as_asked(folder: Path) -> None:
    with pytest.raises(OSError, match="No data"):
        os.setxattr(folder, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(folder, "user.a", b"2", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(folder, "user.a", b"3", os.XATTR_CREATE)
    os.setxattr(folder, "user.a", b"4", os.XATTR_REPLACE)

    assert os.getxattr(folder, "user.a") == b"4"
