"""How much a program may use."""

import resource
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

MIB = 1 << 20


class SandboxSettings(BaseModel):
    """The configuration's [sandbox]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bubblewrap: bool = Field(True, description="use bubblewrap where it works")
    landlock: bool = Field(True, description="use Landlock where bubblewrap does not work")
    cgroups: bool = Field(True, description="let cgroups keep limits where they can be made")
    none: bool = Field(False, description="run programs unheld where neither works")
    network: bool = Field(False, description="let programs use the host's network")
    share: tuple[str, ...] = Field((), description="further host directories to see, read-only")
    wall_seconds: float = Field(300.0, gt=0, le=3600, description="the longest a program may take")
    cpu_seconds: int = Field(300, ge=1, description="processor time of each process")
    memory_mb: int = Field(2048, ge=16, description="of all processes of a call, and of each")
    processes: int = Field(256, ge=1, description="at once, in a call")
    file_mb: int = Field(1024, ge=1, description="the largest file that can be written")
    output_mb: int = Field(64, ge=1, description="a program that writes more is ended")
    tmp_mb: int = Field(256, ge=1, description="size of the private /tmp")
    open_files: int = Field(1024, ge=16, description="of each process")
    reply_chars: int = Field(30_000, ge=200, description="of each stream, in a reply")
    calls_per_user: int = Field(32, ge=1, description="programs of one user at once; then EAGAIN")


@dataclass(frozen=True, slots=True)
class Rlimits:
    """The limits that Linux itself keeps for each process. Source: getrlimit(2)."""

    core: int
    cpu_s: int
    data_bytes: int
    file_bytes: int
    open_files: int
    processes: int

    @classmethod
    def of(cls, settings: SandboxSettings) -> "Rlimits":
        """The settings, as far as this process may set them."""
        return cls(
            core=0,
            cpu_s=_possible(resource.RLIMIT_CPU, settings.cpu_seconds),
            data_bytes=_possible(resource.RLIMIT_DATA, settings.memory_mb * MIB),
            file_bytes=_possible(resource.RLIMIT_FSIZE, settings.file_mb * MIB),
            open_files=_possible(resource.RLIMIT_NOFILE, settings.open_files),
            processes=_possible(resource.RLIMIT_NPROC, settings.processes),
        )


def _possible(which: int, wanted: int) -> int:
    hard = resource.getrlimit(which)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
