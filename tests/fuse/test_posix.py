"""POSIX's rules through the mount, where Linux, the binding and the kernel each do a part."""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nexusfs.contracts.node import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.fuse.conftest import Mounts
from tests.fuse.shell import errno_of, ok, opened, running, sh

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


def test_a_listing_begins_with_the_directory_and_its_parent(folder: Path) -> None:
    (folder / "d").mkdir()

    said = ok(sh(folder, "ls -a; ls -a d; ls -f d"))

    assert said.split() == [".", "..", "d", ".", "..", ".", ".."]
    assert os.listdir(folder) == ["d"]


def test_byte_range_locks_bind_other_processes_until_their_owner_dies(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(bytes(100))
    locks = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'r+b');"
        "fcntl.lockf(f, fcntl.LOCK_EX, 10, 20); print('locked', flush=True); time.sleep(60)"
    )
    with (
        running(folder, sys.executable, "-c", locks, str(path)) as other,
        open(path, "r+b") as file,
    ):
        assert other.stdout and other.stdout.readline() == "locked\n"

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 20, 0)
        assert errno_of(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29) == "EAGAIN"
        other.kill()
        other.wait()
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 29)


def test_a_removed_directory_that_is_open_is_empty_and_takes_nothing(folder: Path) -> None:
    (folder / "d").mkdir()
    with opened(folder / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (folder / "d").rmdir()

        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
        for call in (os.mkdir, os.mkfifo):
            assert errno_of(lambda call=call: call("x", dir_fd=fd)) == "ENOENT"
        assert errno_of(lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) == "ENOENT"


def test_an_unlinked_open_file_takes_all_that_an_open_file_takes(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"x" * 10_000)
    with opened(path) as fd:
        path.unlink()
        os.ftruncate(fd, 5)
        os.fchmod(fd, 0o640)
        os.fchown(fd, ALICE, ALICE)
        os.utime(fd, ns=(1, 2))
        os.pwrite(fd, b"end", 5)
        os.fsync(fd)

        st = os.fstat(fd)

        assert (st.st_nlink, st.st_size, st.st_uid) == (0, 8, ALICE)
        assert stat.S_IMODE(st.st_mode) == 0o640
        assert os.pread(fd, 100, 0) == b"xxxxxend"


def test_a_socket_in_the_mount_connects_two_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # a path of a socket has 107 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")
        client.send(b"through")

        with server.accept()[0] as accepted:
            assert accepted.recv(100) == b"through"
    assert stat.S_ISSOCK((folder / "s").stat().st_mode)


def test_device_nodes_are_roots_to_make_and_nobodys_to_open(folder: Path) -> None:
    null = os.makedev(1, 3)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, null)

    assert (folder / "null").stat().st_rdev == null
    assert errno_of(os.open, folder / "null", os.O_RDONLY) == "EACCES"  # FUSE mounts are nodev
    assert as_user(ALICE, lambda: os.mknod(folder / "n", stat.S_IFCHR | 0o666, null)) == 1


def test_what_the_binding_has_not_is_done_without_or_refused(folder: Path) -> None:
    fd = os.open(folder / "f", os.O_CREAT | os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, 10_000)
        os.pwrite(fd, b"data", 5000)

        assert os.fstat(fd).st_size == 10_000
        assert os.lseek(fd, 100, os.SEEK_DATA) == 100
        assert os.copy_file_range(fd, fd, 4, 5000, 0) == 4
        assert os.pread(fd, 4, 0) == b"data"
        assert errno_of(os.open, folder, os.O_TMPFILE | os.O_RDWR) == "EOPNOTSUPP"
    finally:
        os.close(fd)
