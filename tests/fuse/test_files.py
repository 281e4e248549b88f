"""Ordinary files through the mount, as programs use them."""

import fcntl
import json
import mmap
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import (
    call,
    errno_of,
    held,
    ok,
    opened,
    play,
    request,
    running,
    sh,
    until,
    wait,
)

pytestmark = pytest.mark.fuse

NOBODY = 65534


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    return mounts.mount("a", "--allow-other")


@pytest.fixture
def folder(mnt: Path, request: pytest.FixtureRequest) -> Path:
    """An empty directory of the mount for one test."""
    made: Path = mnt / f"dir-{abs(hash(request.node.name))}"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host with files of all kinds, to be copied in."""
    top = tmp_path_factory.mktemp("tree")
    for number in range(30):
        (top / f"d{number % 3}/e").mkdir(parents=True, exist_ok=True)
        (top / f"d{number % 3}/e/f{number}").write_bytes(os.urandom(number * 997))
    (top / "large").write_bytes(os.urandom(3 << 20))
    (top / "naïve \n name").write_text("odd\n")
    (top / "run").write_text("#!/bin/sh\necho ran\n")
    (top / "run").chmod(0o750)
    os.symlink("d0/e", top / "link")
    os.symlink("nowhere", top / "dangling")
    os.link(top / "large", top / "hard")
    os.utime(top / "run", ns=(1_700_000_000_123_456_789, 1_600_000_000_987_654_321))
    return top


def alike(one: Path, other: Path) -> None:
    """Fails unless two trees are the same, names, types, modes, times and contents."""
    said = ok(sh(one, 'rsync -aHnic --delete "$1/" "$2/"', one, other))
    assert said == ""


# -- programs that copy and pack


def test_rsync_a_copies_in_and_out(folder: Path, tree: Path, tmp_path: Path) -> None:
    ok(sh(folder, 'rsync -aH "$1/" in && rsync -aH in/ "$2/out"', tree, tmp_path))

    alike(tree, folder / "in")
    alike(tree, tmp_path / "out")


def test_tar_packs_and_unpacks(folder: Path, tree: Path, tmp_path: Path) -> None:
    script = (
        'mkdir in && tar cf - -C "$1" . | tar xf - -C in && tar cf t.tar -C in . && '
        'tar xf t.tar -C "$2"'
    )
    ok(sh(folder, script, tree, tmp_path))

    alike(tree, folder / "in")
    alike(tree, tmp_path)


def test_cp_a_and_mv(folder: Path, tree: Path) -> None:
    ok(sh(folder, 'cp -a "$1" a && mv a b && mkdir c && mv b c/ && mv c/b a && rmdir c', tree))

    alike(tree, folder / "a")
    assert os.listdir(folder) == ["a"]


def test_a_script_in_the_mount_runs(folder: Path) -> None:
    (folder / "run").write_text("#!/bin/sh\necho ran\n")
    (folder / "run").chmod(0o755)

    assert ok(sh(folder, "./run")) == "ran\n"


def test_git_works_in_the_mount(folder: Path, tree: Path) -> None:
    script = """
        set -e
        git init -q . && git config user.email a@b && git config user.name a
        cp -r "$1/d0" "$1/large" . && git add . && git commit -qm one
        echo more >> d0/e/f0 && git commit -qam two && git checkout -q -b other HEAD~1
        git mv large big && git commit -qm three && git merge -q -m four master 2>&1
        git gc -q && git fsck --strict 2>&1 | grep -v '^Checking' || true
        git status --porcelain && git log --oneline | wc -l
    """
    env_script = (
        "export HOME=$PWD GIT_CONFIG_NOSYSTEM=1; git config --global init.defaultBranch master;"
    )

    said = ok(sh(folder, env_script + script, tree)).split()

    assert said[-1] == "4"
    assert "dangling" not in said and "missing" not in said
    assert ok(sh(folder, "git fsck --full --strict 2>/dev/null && cat d0/e/f0")) == "more\n"


def test_sqlite_works_in_the_mount(folder: Path) -> None:
    script = """
        sqlite3 a.db 'PRAGMA journal_mode=delete; CREATE TABLE t(x);
          WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000)
          INSERT INTO t SELECT i FROM n; UPDATE t SET x = x * 2 WHERE x % 7 = 0;' &&
        sqlite3 a.db 'PRAGMA integrity_check; SELECT count(*), sum(x) FROM t'
    """

    assert ok(sh(folder, script)).split() == ["delete", "ok", "5000|14289285"]


def test_two_sqlite_writers_take_turns(folder: Path) -> None:
    ok(sh(folder, "sqlite3 a.db 'CREATE TABLE t(x)'"))
    script = (
        "for w in 1 2; do (for i in $(seq 15); do sqlite3 -cmd '.timeout 20000' a.db "
        '"INSERT INTO t VALUES($w)" > /dev/null || exit 1; done) & done; wait;'
        "sqlite3 a.db 'SELECT count(*) FROM t; PRAGMA integrity_check'"
    )

    assert ok(sh(folder, script)).split() == ["30", "ok"]


def test_shell_and_editor_habits(folder: Path) -> None:
    script = """
        echo one > f && echo two >> f && sed -i s/two/three/ f && cat f && wc -c < f &&
        : > f && test ! -s f && truncate -s 5 f && od -An -c f | tr -d ' \\n' && echo &&
        dd if=/dev/zero of=g bs=1 count=1 seek=100000 status=none && stat -c %s g &&
        echo x > h && ln h i && stat -c %h h && rm h && cat i && ln -s i j && cat j
    """

    assert ok(sh(folder, script)).splitlines() == [
        "one", "three", "10", "\\0\\0\\0\\0\\0", "100001", "2", "x", "x",
    ]  # fmt: skip


# -- contents


def test_appenders_do_not_overwrite_each_other(folder: Path) -> None:
    script = "for w in a b c d; do (for i in $(seq 50); do echo $w$i >> log; done) & done; wait"

    ok(sh(folder, script))

    lines = (folder / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{w}{i}" for w in "abcd" for i in range(1, 51))


def test_writes_at_offsets_leave_zeros_between(folder: Path) -> None:
    with open(folder / "f", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"end", 300_000)
        os.pwrite(file.fileno(), b"start", 0)
        os.pwrite(file.fileno(), b"middle", 4093)

    data = (folder / "f").read_bytes()
    assert len(data) == 300_003
    assert (data[:5], data[4093:4099], data[-3:]) == (b"start", b"middle", b"end")
    assert data.count(0) == 300_003 - 14


def test_truncate_cuts_and_extends_with_zeros(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"x" * 100_000)

    os.truncate(path, 10)
    os.truncate(path, 20)

    assert path.read_bytes() == b"x" * 10 + bytes(10)
    assert path.stat().st_size == 20


def test_a_large_file_survives_its_round_trip(folder: Path) -> None:
    data = os.urandom(1 << 20) * 9 + b"rest"

    (folder / "f").write_bytes(data)

    assert (folder / "f").read_bytes() == data
    with opened(folder / "f", os.O_RDONLY) as fd:
        assert os.pread(fd, 100, (8 << 20) + 7) == data[(8 << 20) + 7 : (8 << 20) + 107]


def test_an_offset_over_4_gib_works(folder: Path) -> None:
    with open(folder / "f", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far", 5 << 30)
        assert os.pread(file.fileno(), 10, (5 << 30) - 2) == b"\0\0far"

    assert (folder / "f").stat().st_size == (5 << 30) + 3
    assert (folder / "f").stat().st_blocks < 100


def test_mmap_reads_and_shared_mmap_writes(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"a" * 10_000)

    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        before = bytes(shared[:3])
        shared[5000:5003] = b"new"
        shared.flush()

    assert before == b"aaa"
    assert path.read_bytes()[4999:5004] == b"anewa"


def test_an_unlinked_file_lives_while_it_is_open(folder: Path) -> None:
    path = folder / "f"
    path.write_text("still here")

    with open(path, "r+") as file:
        path.unlink()
        file.seek(0, os.SEEK_END)
        file.write(", and longer")
        file.seek(0)
        said = file.read()

    assert said == "still here, and longer"
    assert os.listdir(folder) == []


def test_rename_over_an_open_file_keeps_the_old_one_readable(folder: Path) -> None:
    (folder / "old").write_text("old")
    (folder / "new").write_text("new")

    with held(folder / "old") as fd:
        os.rename(folder / "new", folder / "old")
        said = os.read(fd, 100)

    assert said == b"old"
    assert (folder / "old").read_text() == "new"
    assert os.listdir(folder) == ["old"]


# -- names and attributes


def test_links_names_and_modes(folder: Path) -> None:
    (folder / "f").write_text("x")
    os.link(folder / "f", folder / "g")
    os.symlink("f", folder / "s")
    (folder / "f").chmod(0o4751)
    os.utime(folder / "f", ns=(1, 1_234_567_890_123_456_789))

    st = (folder / "g").stat()
    assert (st.st_nlink, stat.S_IMODE(st.st_mode)) == (2, 0o4751)
    assert st.st_mtime_ns == 1_234_567_890_123_456_789
    assert os.readlink(folder / "s") == "f"
    assert st.st_ino == (folder / "f").stat().st_ino == (folder / "s").stat().st_ino


def test_errors_are_those_of_posix(folder: Path) -> None:
    (folder / "dir/sub").mkdir(parents=True)
    (folder / "f").touch()

    assert errno_of((folder / "dir").rmdir) == "ENOTEMPTY"
    assert errno_of((folder / "f/x").read_text) == "ENOTDIR"
    assert errno_of((folder / "absent").read_text) == "ENOENT"
    assert errno_of((folder / "dir").mkdir) == "EEXIST"
    assert errno_of((folder / ("x" * 256)).touch) == "ENAMETOOLONG"
    assert errno_of(os.rename, folder / "dir", folder / "dir/sub/x") == "EINVAL"
    assert errno_of(os.rename, folder / "f", folder / "dir") == "EISDIR"
    assert errno_of(os.rename, folder / "dir", folder / "f") == "ENOTDIR"
    assert errno_of((folder / "dir").unlink) in ("EISDIR", "EPERM")
    assert errno_of(os.link, folder / "dir", folder / "hard") == "EPERM"
    assert errno_of((folder / "f").rmdir) == "ENOTDIR"


def test_names_of_255_bytes_and_of_any_bytes(folder: Path) -> None:
    names = [b"x" * 255, b"\xff\xfe", "ä\n ü".encode(), b"-rf", b" "]
    for name in names:
        with open(os.fsencode(folder) + b"/" + name, "wb"):
            pass

    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)


def test_a_directory_of_2000_names_is_listed_whole(folder: Path) -> None:
    for number in range(2000):
        os.mknod(folder / f"{number:05}")

    assert sorted(os.listdir(folder)) == [f"{number:05}" for number in range(2000)]
    with os.scandir(folder) as entries:
        for entry in list(entries)[::2]:
            os.unlink(entry)
    assert len(os.listdir(folder)) == 1000


def test_flock_and_fcntl_locks_hold(folder: Path) -> None:
    path = folder / "lock"
    path.touch()
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        assert sh(folder, "flock -n lock true").returncode == 1

    assert sh(folder, "flock -n lock true").returncode == 0


def test_extended_attributes_are_kept(folder: Path) -> None:
    (folder / "f").touch()
    os.setxattr(folder / "f", "user.colour", b"blue")

    assert os.getxattr(folder / "f", "user.colour") == b"blue"
    assert os.listxattr(folder / "f") == ["user.colour"]
    os.removexattr(folder / "f", "user.colour")
    assert errno_of(os.getxattr, folder / "f", "user.colour") == "ENODATA"


def test_a_fifo_connects_two_programs(folder: Path) -> None:
    assert ok(sh(folder, "mkfifo p && (echo through > p &) && cat p")) == "through\n"


def test_statfs_tells_the_disk(mnt: Path) -> None:
    st = os.statvfs(mnt)

    assert st.f_blocks > st.f_bavail > 0 and st.f_namemax == 255
    assert ok(sh(mnt, "df -P . | tail -1")).split()[0] == "nexusfs"


# -- other users


def as_nobody(where: Path, script: str) -> subprocess.CompletedProcess[str]:
    return sh(where, script, user=NOBODY)


def test_permissions_bind_another_user(folder: Path) -> None:
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0o640)
    (folder / "public").write_text("x")
    (folder / "closed").mkdir(0o700)
    folder.chmod(0o755)

    for script in (
        "cat secret", "echo x >> public", "ls closed", "rm -f public", "touch new",
        "chmod 777 public",
    ):  # fmt: skip
        assert as_nobody(folder, script).returncode != 0, script
    assert ok(as_nobody(folder, "cat public")) == "x"


def test_another_user_owns_what_he_makes_and_sticky_protects_the_rest(folder: Path) -> None:
    folder.chmod(0o1777)
    (folder / "roots").write_text("x")

    ok(as_nobody(folder, "umask 027; echo x > mine; mkdir d; mv mine also"))
    moved = as_nobody(folder, "mv roots gone 2>&1 || rm -f roots")

    st = (folder / "also").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (NOBODY, NOBODY, 0o640)
    assert moved.returncode != 0 and (folder / "roots").exists()


def test_setgid_directories_hand_on_their_group(folder: Path) -> None:
    os.chown(folder, 0, 4242)
    folder.chmod(0o2777)

    ok(as_nobody(folder, "touch f; mkdir d"))

    assert (folder / "f").stat().st_gid == (folder / "d").stat().st_gid == 4242
    assert (folder / "d").stat().st_mode & stat.S_ISGID


def test_a_write_by_another_user_clears_setuid(folder: Path) -> None:
    (folder / "f").touch()
    (folder / "f").chmod(0o6777)

    ok(as_nobody(folder, "echo x > f"))

    assert not (folder / "f").stat().st_mode & stat.S_ISUID


# -- changes that come through other doors


@pytest.fixture
def watched(folder: Path) -> Iterator[Path]:
    """A file that Linux has everything cached of."""
    path = folder / "watched"
    path.write_text("before\n")
    with held(path) as fd:
        os.read(fd, 100)
        path.stat()
        yield path


def rooted(mnt: Path, path: Path) -> str:
    return f"/{path.relative_to(mnt)}"


def test_a_tool_s_change_is_seen_at_once_by_stat_and_read(mnt: Path, watched: Path) -> None:
    for number in range(10):
        text = f"after {number} {'x' * number}\n"
        failed, said = request(
            mnt / "dispatch/write_file", {"path": rooted(mnt, watched), "content": text}
        )
        assert not failed, said

        assert watched.stat().st_size == len(text)
        assert watched.read_text() == text


def test_a_tool_s_change_of_the_same_size_is_seen_by_an_open_handle(
    mnt: Path, watched: Path
) -> None:
    with held(watched) as fd:
        os.read(fd, 100)

        request(
            mnt / "dispatch/edit_file", {"path": rooted(mnt, watched), "old": "be", "new": "af"}
        )
        said = os.pread(fd, 100, 0)

    assert said == b"affore\n"


def test_a_tool_s_new_file_is_seen_where_it_was_known_to_be_absent(mnt: Path, folder: Path) -> None:
    path = folder / "made/deep/file"
    assert not path.exists() and os.listdir(folder) == []

    request(mnt / "dispatch/write_file", {"path": rooted(mnt, path), "content": "here"})

    assert path.read_text() == "here"
    assert os.listdir(folder) == ["made"]


def test_an_agent_s_change_is_seen_at_its_end(mnt: Path, watched: Path, tmp_path: Path) -> None:
    writes = call("write_file", path=rooted(mnt, watched), content="an agent\n")
    pid = play(mnt, tmp_path / "s.json", writes, {"content": "done"})
    wait(mnt, pid)

    assert watched.stat().st_size == 9
    assert watched.read_text() == "an agent\n"


def test_what_a_person_writes_is_seen_by_a_tool_at_once(mnt: Path, folder: Path) -> None:
    path = folder / "f"
    for number in range(10):
        path.write_text(f"number {number}\n")

        failed, said = request(mnt / "dispatch/read_file", {"path": rooted(mnt, path)})

        assert (failed, json.loads(said)["output"]) == ("", f"number {number}\n")


def test_tail_f_follows_a_file_that_a_tool_appends_to(mnt: Path, watched: Path) -> None:
    with running(mnt, "tail", "-n", "+1", "-s", "0.05", "-f", str(watched)) as process:
        assert process.stdout
        first = process.stdout.readline()
        request(
            mnt / "dispatch/write_file",
            {"path": rooted(mnt, watched), "content": "before\nafter\n"},
        )
        second = process.stdout.readline()

    assert (first, second) == ("before\n", "after\n")


def test_nothing_of_this_left_handles_open(mnt: Path) -> None:
    def handles() -> int:
        lines = (mnt / "sys/sessions").read_text().splitlines()
        return int(dict(line.split() for line in lines)["open_handles"])

    until(lambda: handles() <= 2)
