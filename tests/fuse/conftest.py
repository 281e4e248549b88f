"""A real mount for the tests: `mnt` is one for each module, `Mounts` makes further ones."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nexusfs.boot.connect import connect_sync
from tests.fuse.faces import Face, FilesFace, PythonFace

NEXUSFS = str(Path(sys.executable).parent / "nexusfs")


@contextlib.contextmanager
def reachable_mounts() -> "Iterator[Mounts]":
    """Mounts that other users can reach."""
    with tempfile.TemporaryDirectory(prefix="nexusfs-reachable-") as directory:
        os.chmod(directory, 0o755)
        made = Mounts(Path(directory))
        yield made
        made.close()


class Mounts:
    """Mounts stores in a directory of its own, and unmounts what is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mounted: list[Path] = []

    def mount(self, name: str = "a", *options: str, env: dict[str, str] | None = None) -> Path:
        mnt = self.directory / f"mnt-{name}"
        with contextlib.suppress(FileExistsError):  # maybe a dead mount, which is no directory
            mnt.mkdir()
        done = self.run("mount", str(mnt), "--store", str(self.store(name)), *options, env=env)
        assert done.returncode == 0, done.stderr
        self._mounted.append(mnt)
        return mnt

    def store(self, name: str = "a") -> Path:
        return self.directory / f"store-{name}"

    def umount(self, mnt: Path, *options: str) -> None:
        done = self.run("umount", *options, str(mnt))
        assert done.returncode == 0, done.stderr
        self._mounted.remove(mnt)

    def run(
        self, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [NEXUSFS, *arguments], env={**self.environment(), **(env or {})}, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Without the user's own configuration; the endpoints of tests have no price."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("NEXUSFS_")}
        config = str(self.directory / "config")
        return {
            **clean, "XDG_CONFIG_HOME": config, "NEXUSFS_LIMITS__UNKNOWN_PRICE": "allow",
        }  # fmt: skip

    def close(self) -> None:
        for mnt in self._mounted:
            self.run("umount", "-l", str(mnt))


@pytest.fixture(scope="session", autouse=True)
def fuse_device() -> None:
    assert os.path.exists("/dev/fuse"), "these tests really mount: /dev/fuse is missing here"


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    made = Mounts(tmp_path_factory.mktemp("fuse"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    return mounts.mount()


@pytest.fixture(scope="module", params=["files", "python"])
def face(
    request: pytest.FixtureRequest, mounts: Mounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Face]:
    """One kernel by its files, one by its system calls; see tests/fuse/faces.py."""
    if request.param == "files":
        yield FilesFace(mounts.mount("rows"))
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
            with connect_sync(tmp_path_factory.mktemp("rows") / "store") as kernel:
                yield PythonFace(kernel)


@pytest.fixture
def play(face: Face, tmp_path: Path) -> Callable[..., int]:
    """Spawns an agent whose model plays the turns."""

    def spawned(*turns: dict[str, Any], **spec: Any) -> int:
        script = tmp_path / f"script-{len(list(tmp_path.iterdir()))}"
        script.write_text(json.dumps(turns))
        return face.spawn(**{"model": f"offline/script:{script}", "task": "go", **spec})

    return spawned
