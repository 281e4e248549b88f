"""The filter, run by an interpreter of a few lines as Linux would run it."""

import errno
import struct

import pytest

from nexusfs.services.sandbox.seccomp import AF_INET, AF_UNIX, seccomp_filter

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
AF_VSOCK = 40


def verdict(program: bytes, arch: int, number: int, first: int = 0) -> str:
    """`allow`, or the name of the errno."""
    steps = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=iIQQ", number, arch, 0, first)
    value = at = 0
    while True:
        code, then, otherwise, k = steps[at]
        at += 1
        if code == 0x20:
            value = struct.unpack_from("=I", data, k)[0]
        elif code == 0x06:
            return "allow" if k == ALLOW else errno.errorcode[k - ERRNO]
        else:
            holds = value == k if code == 0x15 else value >= k
            at += then if holds else otherwise


@pytest.mark.parametrize(
    ("machine", "arch", "calls"),
    [
        ("x86_64", X86_64, {0: "allow", 59: "allow", 250: "EPERM", 425: "ENOSYS", 319: "ENOSYS"}),
        ("aarch64", AARCH64, {63: "allow", 221: "allow", 219: "EPERM", 279: "ENOSYS"}),
    ],
)
def test_calls_are_let_through_or_refused(machine: str, arch: int, calls: dict[int, str]) -> None:
    program = seccomp_filter([AF_UNIX], machine)
    assert program is not None

    assert {number: verdict(program, arch, number) for number in calls} == calls


def test_sockets_go_by_their_family() -> None:
    program = seccomp_filter([AF_UNIX, AF_INET], "x86_64")
    assert program is not None

    found = [verdict(program, X86_64, 41, family) for family in (AF_UNIX, AF_INET, AF_VSOCK)]

    assert found == ["allow", "allow", "EACCES"]


def test_without_families_no_socket_is_made() -> None:
    program = seccomp_filter([], "x86_64")
    assert program is not None

    assert verdict(program, X86_64, 41, AF_UNIX) == "EACCES"
    assert verdict(program, X86_64, 53) == "allow"  # socketpair


@pytest.mark.parametrize(("arch", "number"), [(I386, 1), (X86_64, 0x40000001)])
def test_another_way_to_number_calls_is_refused(arch: int, number: int) -> None:
    program = seccomp_filter([AF_UNIX], "x86_64")
    assert program is not None

    assert verdict(program, arch, number) == "ENOSYS"


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp_filter([], "pdp11") is None
