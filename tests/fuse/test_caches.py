"""What changes behind Linux's caches is seen by the very next call, whichever it is.

Random changes are made by a tool inside the daemon, and in a directory of the host; before each,
everything was looked at through the mount, so that Linux has all cached: names and their absence,
attributes, pages, listings, mappings.
"""

import errno
import json
import mmap
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import request, until
from tests.torture.load import Op, content, difference, do, random_op, tree

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

PLUGINS = Path(__file__).parent / "plugins"
CHANGES = 300
HELD = 8


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    environment = {"NEXUSFS_TOOL_MODULES": '["file_calls"]', "PYTHONPATH": str(PLUGINS)}
    return mounts.mount(env=environment)


def act(mnt: Path, top: str, op: Op) -> str:
    """Makes the change behind the mount; what the tool says."""
    failed, said = request(mnt / "dispatch/act", {"top": f"/{top}", "op": op})
    assert not failed, said
    return str(json.loads(said)["output"])


# -- looking: the same in the mount and on the host


def look_stat(path: Path) -> Any:
    st = path.lstat()
    return (oct(st.st_mode), st.st_nlink, 0 if stat.S_ISDIR(st.st_mode) else st.st_size)


def look_read(path: Path) -> Any:
    return path.read_bytes()


def look_list(path: Path) -> Any:
    return sorted(os.listdir(path.parent))


def look_listed(path: Path) -> Any:
    """Attributes as the listing brings them."""
    with os.scandir(path.parent) as entries:
        return sorted((e.name, oct(e.stat(follow_symlinks=False).st_mode)) for e in entries)


def look_follow(path: Path) -> Any:
    return oct(path.stat().st_mode)


def look_link(path: Path) -> Any:
    return os.readlink(path)


def look_attributes(path: Path) -> Any:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]


def look_create(path: Path) -> Any:
    """Says whether a name is there, by trying to make it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return "there"
    path.unlink()
    return "not there"


LOOKS: tuple[Callable[[Path], Any], ...] = (
    look_stat, look_read, look_list, look_listed, look_follow, look_link, look_attributes,
    look_create,
)  # fmt: skip


def seen(look: Callable[[Path], Any], path: Path) -> Any:
    try:
        return look(path)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


@dataclass
class Held:
    """A file that is open, and mapped, in the mount and on the host; `size` when last seen."""

    ours: int
    theirs: int
    map: mmap.mmap
    size: int = -1

    @classmethod
    def open(cls, ours: Path, theirs: Path) -> "Held | None":
        """None when there is nothing to map."""
        if not (theirs.is_file() and not theirs.is_symlink() and theirs.stat().st_size):
            return None
        fd = os.open(ours, os.O_RDONLY)
        return cls(fd, os.open(theirs, os.O_RDONLY), mmap.mmap(fd, 0, prot=mmap.PROT_READ))

    def check(self, op: Op) -> None:
        expected = os.fstat(self.theirs)
        wanted = os.pread(self.theirs, 1 << 20, 0)
        length = min(len(wanted), len(self.map))
        if expected.st_size == self.size:
            assert self.map[:length] == wanted[:length], op
        st = os.fstat(self.ours)  # before the map is touched: Linux asks for no size then
        assert (st.st_size, st.st_nlink) == (expected.st_size, expected.st_nlink), op
        assert os.pread(self.ours, 1 << 20, 0) == wanted, op
        assert self.map[:length] == wanted[:length], op
        self.size = st.st_size

    def close(self) -> None:
        self.map.close()
        os.close(self.ours)
        os.close(self.theirs)


def look_at_all(top: Path) -> dict[str, Any]:
    """Makes Linux cache everything: what is there, and what is not."""
    for first, second in product(("", "d0/", "d1/", "d2/", "d0/d1/"), ("n0", "n1", "n2", "d0")):
        seen(look_stat, top / (first + second))
    return tree(top)


@pytest.fixture
def tops(mnt: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An empty directory in the mount, and its shadow on the host."""
    top = mnt / "box"
    top.mkdir()
    (tmp_path / "shadow").mkdir()
    yield top, tmp_path / "shadow"


def test_changes_behind_the_mount_are_seen_by_the_next_call(
    mnt: Path, tops: tuple[Path, Path]
) -> None:
    ours, theirs = tops
    rng = random.Random(4)
    held: list[Held] = []
    look_at_all(ours)
    for number in range(CHANGES):
        op = random_op(rng)
        done = do(op, theirs) or "ok"

        assert act(mnt, "box", op) == done, op

        if held and rng.randrange(4) == 0:
            rng.choice(held).check(op)
        look = rng.choice(LOOKS)
        paths = [arg for arg in op[1:3] if isinstance(arg, str) and op[0] != "setxattr"] or op[1:2]
        for path in paths:
            assert seen(look, ours / path) == seen(look, theirs / path), f"{number} {op} {look}"
        assert not (fault := difference(look_at_all(ours), tree(theirs))), f"{number} {op}: {fault}"
        for one in held:
            one.check(op)
        if (new := Held.open(ours / op[1], theirs / op[1])) is not None:
            held.append(new)
        if len(held) > HELD:
            held.pop(0).close()
    for one in held:
        one.close()


def test_a_listing_brings_the_attributes_that_stat_gives(mnt: Path) -> None:
    top = mnt / "listed"
    top.mkdir()
    for number in range(500):
        path = top / f"f{number:03}"
        path.write_bytes(b"x" * number)
        os.chown(path, number, number + 1)
        path.chmod(0o600 + number % 64)
    with os.scandir(top) as entries:
        listed = {entry.name: entry.stat() for entry in entries}
    fresh = {}
    for name in listed:
        fd = os.open(top / name, os.O_RDONLY)
        os.fsync(fd)
        fresh[name] = os.fstat(fd)
        os.close(fd)

    assert len(listed) == 500
    for name, st in listed.items():
        assert st == fresh[name], name
        assert st.st_size == st.st_uid == st.st_gid - 1 == int(name[1:])


def test_a_directory_changes_by_a_name_that_nobody_looked_up(mnt: Path) -> None:
    top = mnt / "unseen"
    top.mkdir()
    for number in range(20):
        before = top.stat()
        assert act(mnt, "unseen", ["mkdir", f"d{number}"]) == "ok"

        after = top.stat()

        assert after.st_nlink == before.st_nlink + 1
        assert after.st_mtime_ns > before.st_mtime_ns
        assert len(os.listdir(top)) == number + 1


def test_a_mapped_file_shows_what_a_tool_wrote_over_it(mnt: Path) -> None:
    top = mnt / "mapped"
    top.mkdir()
    path = top / "f"
    path.write_bytes(b"x" * 100_000)
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as shared,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private,
    ):
        private[:3] = b"own"
        for number in range(20):
            expected = content(number, 5000)
            assert shared[50_000] is not None and private[50_000] is not None

            assert act(mnt, "mapped", ["write", "f", 50_000, number, 5000]) == "ok"

            assert shared[50_000:55_000] == private[50_000:55_000] == expected
        assert private[:3] == b"own"
        assert shared[:3] == b"xxx"


def lookups(mnt: Path) -> float:
    """How often Linux asked for a name."""
    for line in (mnt / "sys/metrics").read_text().splitlines():
        if line.startswith('nexusfs_syscalls_total{call="sys_find"}'):
            return float(line.split()[-1])
    return 0.0


def test_linux_asks_once_for_a_name_whether_it_is_there_or_not(mnt: Path) -> None:
    (mnt / "there").touch()
    names = ("there", "not-there")
    for name in names:
        os.path.exists(mnt / name)
    before = lookups(mnt)

    for _ in range(100):
        assert [os.path.exists(mnt / name) for name in names] == [True, False]

    assert lookups(mnt) - before < 10  # of sys/metrics itself
    assert act(mnt, ".", ["create", "not-there", 0o644]) == "ok"
    assert (mnt / "not-there").exists()


def test_appends_from_both_sides_of_the_mount_follow_each_other(mnt: Path) -> None:
    top = mnt / "both"
    top.mkdir()
    path = top / "log"
    path.touch()
    rng = random.Random(5)
    expected = b""
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    for number in range(100):
        size = rng.choice([1, 100, 4096, 5000, 20_000])
        if rng.random() < 0.5:
            assert act(mnt, "both", ["append", "log", number, size]) == "ok"
        else:
            assert os.write(fd, content(number, size)) == size
        expected += content(number, size)
        if rng.random() < 0.5:
            assert os.fstat(fd).st_size == len(expected)
        at = rng.randrange(len(expected))
        assert os.pread(fd, 5000, at) == expected[at : at + 5000]

    os.close(fd)
    assert path.read_bytes() == expected


def test_linux_gives_back_what_it_knew_of_removed_files(mnt: Path) -> None:
    def known() -> int:
        lines = (mnt / "sys/sessions").read_text().splitlines()
        return int(dict(line.split() for line in lines)["known_inodes"])

    top = mnt / "removed"
    top.mkdir()
    before = known()
    for number in range(300):
        (top / f"f{number}").write_text("x")
        os.rename(top / f"f{number}", top / f"g{number}")
    assert len(list(os.scandir(top))) == 300
    assert known() >= before + 300

    for path in top.iterdir():
        path.unlink()

    until(lambda: known() <= before + 1)
