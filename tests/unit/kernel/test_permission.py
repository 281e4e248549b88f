"""Permission bits: who may what, and what a change of attributes brings with it."""

import itertools
import os
import stat

import pytest

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    InvalidError,
    KernelError,
    NoDataError,
    NotPermittedError,
    RangeError,
    UnavailableError,
)
from nexusfs.contracts.node import Change, Stat
from nexusfs.kernel.permission import (
    check,
    check_sticky,
    check_xattr,
    checked_change,
    may,
    open_mask,
)
from tests.kernel_fixture import ALICE, BOB, ROOT

NOW = 10**18
TEAM = 500
MEMBER = Credentials(1002, 1002, groups=frozenset({TEAM}))
PRIMARY = Credentials(1003, TEAM)
FILE, DIR = stat.S_IFREG, stat.S_IFDIR
ALL = list(itertools.product(range(8), range(8)))
"""Every (granted bits, wanted mask)."""


def attributes(mode: int, uid: int = ALICE.uid, gid: int = TEAM, *, kind: int = FILE) -> Stat:
    return Stat(5, kind | mode, 1, uid, gid, 0, 1, 2, 3)


def changed(cred: Credentials, st: Stat, change: Change) -> Change:
    return checked_change(cred, st, change, NOW)


def outcome(cred: Credentials, st: Stat, change: Change) -> type[KernelError] | None:
    try:
        changed(cred, st, change)
    except KernelError as exc:
        return type(exc)
    return None


# The mode matrix


@pytest.mark.parametrize(("bits", "mask"), ALL)
def test_the_owner_is_judged_by_his_bits_alone(bits: int, mask: int) -> None:
    st = attributes(bits << 6 | (7 - bits) << 3 | (7 - bits))

    assert may(ALICE, st, mask) is (bits & mask == mask)


@pytest.mark.parametrize("cred", [MEMBER, PRIMARY], ids=["supplementary", "primary"])
@pytest.mark.parametrize(("bits", "mask"), ALL)
def test_the_group_is_judged_by_its_bits_alone(cred: Credentials, bits: int, mask: int) -> None:
    st = attributes((7 - bits) << 6 | bits << 3 | (7 - bits))

    assert may(cred, st, mask) is (bits & mask == mask)


@pytest.mark.parametrize(("bits", "mask"), ALL)
def test_others_are_judged_by_their_bits_alone(bits: int, mask: int) -> None:
    st = attributes((7 - bits) << 6 | (7 - bits) << 3 | bits)

    assert may(BOB, st, mask) is (bits & mask == mask)


@pytest.mark.parametrize("mode", [0, 0o111, 0o777])
def test_root_may_read_and_write_everything(mode: int) -> None:
    assert may(ROOT, attributes(mode), os.R_OK | os.W_OK)


@pytest.mark.parametrize(
    ("mode", "kind", "runs"),
    [
        (0, FILE, False),
        (0o001, FILE, True),
        (0o010, FILE, True),
        (0o100, FILE, True),
        (0, DIR, True),
    ],
)
def test_root_may_run_what_anybody_may_and_search_every_directory(
    mode: int, kind: int, runs: bool
) -> None:
    assert may(ROOT, attributes(mode, kind=kind), os.X_OK) is runs


def test_what_is_denied_is_eacces_with_the_name() -> None:
    with pytest.raises(AccessError, match="notes"):
        check(BOB, attributes(0o600), os.R_OK, b"notes")


@pytest.mark.parametrize(
    ("flags", "mask"),
    [
        (os.O_RDONLY, os.R_OK),
        (os.O_WRONLY, os.W_OK),
        (os.O_RDWR, os.R_OK | os.W_OK),
        (os.O_RDONLY | os.O_TRUNC, os.R_OK | os.W_OK),
        (3, os.R_OK | os.W_OK),
    ],
)
def test_an_open_needs_what_its_flags_say(flags: int, mask: int) -> None:
    assert open_mask(flags) == mask


# Groups are looked up only when they matter


class Lookups:
    """Counts how often the groups were looked up."""

    def __init__(self) -> None:
        self.count = 0
        self.cred = Credentials(1002, 1002, groups=self._groups)

    def _groups(self, host_pid: int) -> frozenset[int]:
        self.count += 1
        return frozenset({TEAM})


@pytest.mark.parametrize(
    ("mode", "mask"), [(0o644, os.R_OK), (0o640, os.W_OK), (0o777, 7), (0o700, 7)]
)
def test_groups_that_decide_nothing_are_not_looked_up(mode: int, mask: int) -> None:
    lookups = Lookups()

    may(lookups.cred, attributes(mode), mask)

    assert lookups.count == 0


def test_groups_that_decide_are_looked_up_once() -> None:
    lookups = Lookups()

    found = [may(lookups.cred, attributes(0o640), os.R_OK) for _ in range(3)]

    assert (found, lookups.count) == ([True] * 3, 1)


def test_a_session_is_looked_up_once_for_the_calling_thread() -> None:
    asked: list[int] = []

    def session(host_pid: int) -> int:
        asked.append(host_pid)
        return 7

    cred = Credentials(1, 1, host_pid=42, session=session)

    assert (cred.session, cred.session, asked) == (7, 7, [42])


# Sticky directories


@pytest.mark.parametrize(
    ("cred", "free"),
    [(ROOT, True), (ALICE, True), (BOB, True), (MEMBER, False)],
    ids=["root", "owner of the directory", "owner of the file", "somebody"],
)
def test_a_sticky_directory_lets_only_owners_remove(cred: Credentials, free: bool) -> None:
    parent = attributes(0o1777, uid=ALICE.uid, kind=DIR)
    child = attributes(0o666, uid=BOB.uid)

    if free:
        check_sticky(cred, parent, child)
    else:
        with pytest.raises(NotPermittedError):
            check_sticky(cred, parent, child)


def test_without_the_sticky_bit_anybody_may_remove() -> None:
    check_sticky(MEMBER, attributes(0o777, kind=DIR), attributes(0o600, uid=BOB.uid))


# chmod


@pytest.mark.parametrize(("cred", "error"), [(ROOT, None), (ALICE, None), (BOB, NotPermittedError)])
def test_only_the_owner_and_root_change_the_mode(
    cred: Credentials, error: type[KernelError] | None
) -> None:
    assert outcome(cred, attributes(0o666), Change(mode=0o600)) is error


def test_every_change_moves_ctime() -> None:
    assert changed(ALICE, attributes(0o644), Change(mode=0o600)).ctime_ns == NOW


@pytest.mark.parametrize(
    ("cred", "mode"),
    [
        (ROOT, 0o2755),
        (Credentials(ALICE.uid, 1000), 0o755),
        (Credentials(ALICE.uid, TEAM), 0o2755),
        (Credentials(ALICE.uid, 1000, groups=frozenset({TEAM})), 0o2755),
    ],
    ids=["root", "not in the group", "primary group", "supplementary group"],
)
def test_setgid_of_a_group_that_one_is_not_in_is_dropped(cred: Credentials, mode: int) -> None:
    assert changed(cred, attributes(0o644), Change(mode=0o2755)).mode == mode


def test_the_type_of_a_file_cannot_be_changed_by_its_mode() -> None:
    assert changed(ALICE, attributes(0o644), Change(mode=DIR | 0o600)).mode == 0o600


# chown


@pytest.mark.parametrize(
    ("cred", "change", "error"),
    [
        (ROOT, Change(uid=5, gid=6), None),
        (ALICE, Change(uid=BOB.uid), NotPermittedError),
        (ALICE, Change(uid=ALICE.uid), None),
        (ALICE, Change(gid=ALICE.gid), None),
        (ALICE, Change(gid=77), NotPermittedError),
        (Credentials(ALICE.uid, 1000, groups=frozenset({77})), Change(gid=77), None),
        (BOB, Change(uid=BOB.uid), NotPermittedError),
        (BOB, Change(gid=BOB.gid), NotPermittedError),
    ],
)
def test_only_root_gives_files_away_and_owners_only_to_their_groups(
    cred: Credentials, change: Change, error: type[KernelError] | None
) -> None:
    assert outcome(cred, attributes(0o644), change) is error


@pytest.mark.parametrize(
    ("before", "after"), [(0o6755, 0o755), (0o4755, 0o755), (0o2755, 0o755), (0o755, None)]
)
def test_chown_takes_the_set_id_bits_off_an_executable(before: int, after: int | None) -> None:
    found = changed(ALICE, attributes(before), Change(gid=ALICE.gid)).mode

    assert found == after


def test_chown_by_root_takes_them_off_too() -> None:
    assert changed(ROOT, attributes(0o6755), Change(uid=5)).mode == 0o755


def test_chown_leaves_setgid_of_a_directory() -> None:
    assert changed(ALICE, attributes(0o2755, kind=DIR), Change(gid=ALICE.gid)).mode is None


# Sizes


@pytest.mark.parametrize(("cred", "error"), [(ROOT, None), (ALICE, None), (BOB, AccessError)])
def test_a_new_size_needs_write_permission(
    cred: Credentials, error: type[KernelError] | None
) -> None:
    assert outcome(cred, attributes(0o644), Change(size=0)) is error


def test_a_new_size_moves_mtime() -> None:
    assert changed(ALICE, attributes(0o644), Change(size=0)).mtime_ns == NOW


def test_a_new_size_takes_setuid_off_unless_root_sets_it() -> None:
    by_owner = changed(ALICE, attributes(0o4755), Change(size=0)).mode
    by_root = changed(ROOT, attributes(0o4755), Change(size=0)).mode

    assert (by_owner, by_root) == (0o755, None)


# Times


@pytest.mark.parametrize(("cred", "error"), [(ROOT, None), (ALICE, None), (BOB, NotPermittedError)])
def test_times_of_ones_choice_are_the_owners_to_set(
    cred: Credentials, error: type[KernelError] | None
) -> None:
    assert outcome(cred, attributes(0o666), Change(atime_ns=5, mtime_ns=6)) is error


@pytest.mark.parametrize(("mode", "error"), [(0o666, None), (0o644, AccessError)])
def test_the_present_is_set_by_whoever_may_write(
    mode: int, error: type[KernelError] | None
) -> None:
    now = Change(atime_ns=1, mtime_ns=1, touch=True)

    assert outcome(BOB, attributes(mode), now) is error


def test_the_present_of_somebody_else_is_the_kernels() -> None:
    found = changed(BOB, attributes(0o666), Change(atime_ns=1, mtime_ns=1, touch=True))

    assert (found.atime_ns, found.mtime_ns) == (NOW, NOW)


def test_times_that_are_not_given_stay() -> None:
    found = changed(ALICE, attributes(0o644), Change(mtime_ns=6))

    assert (found.atime_ns, found.mtime_ns) == (None, 6)


@pytest.mark.parametrize("door", ["fuse", "python"])
def test_only_linux_takes_set_ids_off_in_the_name_of_a_writer(door: str) -> None:
    def take_off() -> Change:
        return changed(BOB.through(door), attributes(0o6777), Change(mode=0o777))

    if door == "fuse":
        assert take_off().mode == 0o777
    else:
        with pytest.raises(NotPermittedError):
            take_off()


# Extended attributes


@pytest.mark.parametrize(
    ("cred", "st", "name", "mask", "expected"),
    [
        (ALICE, attributes(0o600), b"user.a", os.W_OK, None),
        (BOB, attributes(0o644), b"user.a", os.R_OK, None),
        (BOB, attributes(0o644), b"user.a", os.W_OK, AccessError),
        (BOB, attributes(0o600), b"user.a", os.R_OK, AccessError),
        (BOB, attributes(0o600), b"odd", os.R_OK, AccessError),
        (ROOT, attributes(0o600), b"odd", os.R_OK, UnavailableError),
        (BOB, attributes(0o600), b"security.x", os.R_OK, UnavailableError),
        (ROOT, attributes(0o600), b"trusted.x", os.W_OK, UnavailableError),
        (ROOT, attributes(0o600), b"user.", os.R_OK, InvalidError),
        (ROOT, attributes(0o600), b"user." + b"x" * 251, os.R_OK, RangeError),
        (ROOT, attributes(0o777, kind=stat.S_IFLNK), b"user.a", os.R_OK, NoDataError),
        (ROOT, attributes(0o777, kind=stat.S_IFIFO), b"user.a", os.W_OK, NotPermittedError),
        (BOB, attributes(0o1777, kind=DIR), b"user.a", os.W_OK, NotPermittedError),
        (ALICE, attributes(0o1777, kind=DIR), b"user.a", os.W_OK, None),
        (BOB, attributes(0o1777, kind=DIR), b"odd", os.W_OK, UnavailableError),
        (BOB, attributes(0o1777, kind=DIR), b"security.x", os.W_OK, UnavailableError),
    ],
)
def test_extended_attributes_are_guarded_as_linux_does(
    cred: Credentials, st: Stat, name: bytes, mask: int, expected: type[KernelError] | None
) -> None:
    try:
        check_xattr(cred, st, name, mask)
        found = None
    except KernelError as exc:
        found = type(exc)

    assert found is expected
