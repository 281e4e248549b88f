"""Where cgroups are made, over a directory that looks like a cgroup filesystem."""

import itertools
from pathlib import Path

import pytest

from nexusfs.services.sandbox.cgroup import Cgroup, Cgroups, find_cgroups


class FakeKernel:
    """Makes the files of a cgroup when one is made, as Linux does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        real, real_rmdir = Path.mkdir, Path.rmdir

        def mkdir(path: Path, *args: object, **kwargs: object) -> None:
            real(path)
            for name in names:
                if path.parent.name not in name.split(".") or "." not in name:
                    (path / name).write_text("")

        def rmdir(path: Path) -> None:
            for left in path.iterdir():
                left.unlink()
            real_rmdir(path)

        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(Path, "rmdir", rmdir)


def test_version_2_is_made_where_a_parent_hands_on_the_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = tmp_path / "user.slice" / "session.scope"
    scope.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (scope / "cgroup.subtree_control").write_text("")
    (tmp_path / "user.slice/cgroup.subtree_control").write_text("memory pids")
    FakeKernel(monkeypatch, "cgroup.procs", "memory.max", "memory.swap.max", "pids.max")

    found = find_cgroups(tmp_path, "0::/user.slice/session.scope\n")

    assert found is not None and found.parents == (tmp_path / "user.slice",)
    made = found.make(1000, 5)
    assert (made.paths[0] / "memory.max").read_text() == "1000"
    assert (made.paths[0] / "memory.swap.max").read_text() == "0"
    assert (made.paths[0] / "pids.max").read_text() == "5"


def test_version_1_is_a_directory_for_each_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "memory/ours").mkdir(parents=True)
    FakeKernel(monkeypatch, "cgroup.procs", "memory.limit_in_bytes", "pids.max")

    found = find_cgroups(tmp_path, "8:pids:/\n4:memory:/ours\n1:cpu,cpuacct:/\n0::/\n")

    assert found is not None
    assert found.parents == (tmp_path / "memory/ours", tmp_path / "pids")


@pytest.mark.parametrize("own", ["", "0::/\n", "8:pids:/\n0::/\n"])
def test_without_the_controllers_there_is_none(tmp_path: Path, own: str) -> None:
    assert find_cgroups(tmp_path, own) is None


def test_one_without_limits_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, "cgroup.procs")

    with pytest.raises(OSError, match="controllers"):
        Cgroups((tmp_path,), itertools.count()).make(1, 1)

    assert list(tmp_path.iterdir()) == []


def test_what_was_met_is_read_from_either_version(tmp_path: Path) -> None:
    second, first = tmp_path / "second", tmp_path / "first"
    for path in (second, first):
        path.mkdir()
        (path / "pids.events").write_text("max 3\n")
    (second / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    (first / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")

    assert (Cgroup((second,)).memory_kills(), Cgroup((first,)).memory_kills()) == (1, 4)
    assert Cgroup((second,)).refused_forks() == 3
