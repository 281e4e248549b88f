"""What of a tree is bound where, and what Landlock is told."""

from pathlib import Path

import pytest

from nexusfs.contracts.rights import EVERYTHING, Access, Grant, grant
from nexusfs.services.sandbox.plan import (
    AT_THEIR_PLACE,
    Bind,
    binds_of,
    inside,
    rules_of,
)
from tests.contract.host_files import HostFiles

DIRECTORIES = ("bin", "etc", "proc", "sys", "dispatch", "home", "work/deep", "work/other", "tmp")


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    for name in DIRECTORIES:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "README").write_text("")
    (tmp_path / "link").symlink_to("work")
    return HostFiles(tmp_path)


def grants(**paths: Access) -> list[Grant]:
    return [grant(path.replace("_", "/"), access) for path, access in paths.items()]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "/nexus"), ("/work", "/work"), ("/work/bin", "/work/bin"), ("/bin", "/nexus/bin"),
        ("/etc/x", "/nexus/etc/x"), ("/lib64", "/nexus/lib64"), ("/library", "/library"),
        ("/proc/7", "/nexus/proc/7"), ("/dispatch", "/nexus/dispatch"), ("/nexus", "/nexus/nexus"),
    ],
)  # fmt: skip
def test_names_that_linux_needs_are_below_nexus(path: str, place: str) -> None:
    assert inside(path) == place


async def test_everything_is_below_nexus_and_directories_at_their_place(files: HostFiles) -> None:
    assert await binds_of(files, EVERYTHING) == [
        Bind("/", "/nexus", "rw"), Bind("/home", "/home", "rw"), Bind("/work", "/work", "rw"),
        Bind("/bin", "/nexus/bin", "r"), Bind("/etc", "/nexus/etc", "r"),
    ]  # fmt: skip


async def test_single_grants_are_bound_alone_beside_the_control_trees(files: HostFiles) -> None:
    assert await binds_of(files, grants(_work_deep="rw", _bin="r", _absent="rw")) == [
        Bind("/proc", "/nexus/proc", "rw"), Bind("/dispatch", "/nexus/dispatch", "rw"),
        Bind("/sys", "/nexus/sys", "rw"), Bind("/bin", "/nexus/bin", "r"),
        Bind("/work/deep", "/work/deep", "rw"),
    ]  # fmt: skip


async def test_the_longer_path_decides_at_both_its_places(files: HostFiles) -> None:
    found = await binds_of(files, [grant("/work/deep", "r"), grant("/", "rw")])

    assert found[-2:] == [
        Bind("/work/deep", "/nexus/work/deep", "r"), Bind("/work/deep", "/work/deep", "r"),
    ]  # fmt: skip


async def test_a_symlink_is_not_bound(files: HostFiles) -> None:
    assert "/link" not in {bind.source for bind in await binds_of(files, EVERYTHING)}


async def test_of_very_many_directories_the_first_are_at_their_place(
    files: HostFiles, tmp_path: Path
) -> None:
    for number in range(AT_THEIR_PLACE + 5):
        (tmp_path / f"d{number:04}").mkdir()

    places = [bind.place for bind in await binds_of(files, [grant("/", "rw")])]

    assert len(places) == AT_THEIR_PLACE + 1 and "/d0255" in places and "/work" not in places


async def test_rules_spell_out_what_has_an_exception(files: HostFiles) -> None:
    found = {rule.source: rule.access for rule in await rules_of(files, EVERYTHING)}

    assert found == {
        "/": "r", "/bin": "r", "/etc": "r", "/README": "rw", "/link": "rw", "/dispatch": "rw",
        "/home": "rw", "/proc": "rw", "/sys": "rw", "/tmp": "rw", "/work": "rw",
    }  # fmt: skip


async def test_rules_spell_out_an_exception_that_is_deep(files: HostFiles) -> None:
    found = {
        rule.source: rule.access
        for rule in await rules_of(files, [grant("/work", "rw"), grant("/work/deep", "r")])
    }

    assert found == {
        "/work": "r", "/work/deep": "r", "/work/other": "rw", "/proc": "rw", "/sys": "rw",
        "/dispatch": "rw",
    }  # fmt: skip
