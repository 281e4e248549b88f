"""A small synchronous client of a mounted tree: finds the mount, and asks by writing its files.

Everything goes through files, so it works wherever the directory is: in another process, another
user's session, or a container that has the tree and nothing else of NexusFS. It imports the
standard library alone.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 1024 * 1024
"""Asked of one read(2); FUSE hands on at most this much at once."""
MARKS = ("sys/version", "proc/spawn")
"""What a directory must have to be a mount."""


class ClientError(Exception):
    """A request that failed: an errno for the program and one sentence for the person.

    Not an OSError, so that EPIPE of an agent is never taken for a closed terminal.

    Attributes:
        errno: of the failed call; ENODEV when there is no mount.
        reply: what was readable on the failed handle; empty when nothing was.
        status: exit status for a command that fails by it.
    """

    def __init__(self, number: int, sentence: str, reply: bytes = b"") -> None:
        """The sentence is shown on one line, whatever it was."""
        super().__init__(" ".join(sentence.split()))
        self.errno = number
        self.reply = reply
        self.status = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How an agent ended, as its `wait` file says: 0 done, > 0 error, < 0 minus a signal."""

    pid: int
    exit_code: int
    reason: str

    @property
    def shell_status(self) -> int:
        """The exit status for a shell: 128 + n for signal n."""
        return min(self.exit_code, 255) if self.exit_code >= 0 else 128 - self.exit_code


class Mount:
    """A mounted tree, by its files. Every method may raise ClientError."""

    def __init__(self, root: Path) -> None:
        """A mount at `root`; find_mount() finds one."""
        self.root = root

    def read(self, name: str) -> bytes:
        """The whole of a file, read until it ends; blocks where the file does."""
        with _file_errors(name), open(self.root / name, "rb", buffering=0) as file:
            return file.readall()

    def text(self, name: str) -> str:
        """The whole of a file as text, without the newline at its end."""
        return self.read(name).decode("utf-8", "replace").rstrip("\n")

    def names(self, directory: str) -> list[str]:
        """The visible names of a directory, sorted."""
        with _file_errors(directory):
            return sorted(n for n in os.listdir(self.root / directory) if not n.startswith("."))

    def request(self, name: str, data: bytes) -> bytes:
        """Writes one request and returns the reply that the same handle gives.

        A request without a visible end (a Markdown spec) acts at the flush that follows. Blocks
        while the request runs; a signal ends the wait and cancels the request.

        Raises:
            ClientError: with the sentence that is readable on the failed handle.
        """
        with _file_errors(name):
            fd = os.open(self.root / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            _write_all(fd, data)
            os.close(os.dup(fd))  # a flush whose error is seen, with the handle still open
            return _read_rest(fd)
        except OSError as exc:
            reply = _read_what_is_there(fd)
            sentence = reply.decode("utf-8", "replace") or f"{name}: {exc.strerror}"
            raise ClientError(exc.errno or errno.EIO, sentence, reply) from None
        finally:
            _close_quietly(fd)

    def open_stream(self, name: str) -> int:
        """A descriptor of a `_pipe` file, to be closed; non-blocking: EAGAIN means poll."""
        with _file_errors(name):
            return os.open(self.root / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def pids(self) -> list[int]:
        """Every process that is listed now, in order."""
        with _file_errors("proc"):
            return sorted(int(name) for name in os.listdir(self.root / "proc") if name.isdigit())

    def status(self, pid: int) -> dict[str, str]:
        """proc/<pid>/status, by its keys."""
        return parse_status(self.text(f"proc/{pid}/status"))

    def statuses(self) -> Iterator[dict[str, str]]:
        """The status of each process; those that vanish meanwhile are left out."""
        for pid in self.pids():
            try:
                yield self.status(pid)
            except ClientError as exc:
                if exc.errno not in (errno.ENOENT, errno.ESRCH, errno.ENOTDIR):
                    raise

    def spawn(self, spec: bytes) -> int:
        """The pid of the agent that a spec starts: one JSON object, or Markdown."""
        reply = self.request("proc/spawn", spec).strip()
        if not reply.isdigit():
            raise ClientError(errno.EIO, f"proc/spawn answered {reply[:80]!r} instead of a pid")
        return int(reply)

    def control(self, pid: int, verb: str) -> str:
        """Sends one verb, such as `term` or `steer TEXT`, to an agent; what ctl answers, if any."""
        reply = self.request(f"proc/{pid}/ctl", " ".join(verb.split()).encode() + b"\n")
        return reply.decode("utf-8", "replace").rstrip("\n")

    def wait(self, pid: int) -> Ended:
        """How an agent ended; blocks until it has."""
        line = self.text(f"proc/{pid}/wait")
        found = re.match(r"(\d+) (-?\d+) ?(.*)", line, re.DOTALL)
        if not found:
            raise ClientError(errno.EIO, f"proc/{pid}/wait says {line[:80]!r}")
        return Ended(int(found[1]), int(found[2]), found[3])


def parse_status(text: str) -> dict[str, str]:
    """`Key:<tab>value` lines as a dict; other lines are left out."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, colon, value in pairs if colon}


def find_mount(given: str | os.PathLike[str] | None = None) -> Mount:
    """The mount that is given, or that the current directory is in, or the only one there is.

    Raises:
        ClientError: ENODEV, with the way out.
    """
    if given:
        return _checked(Path(given))
    here = Path.cwd()
    for directory in (here, *here.parents):
        if _is_mount(directory):
            return Mount(directory)
    dead = [directory for directory in (here, *here.parents) if _is_dead(directory)]
    if dead:
        raise ClientError(errno.ENODEV, _dead(dead[-1]))
    found = [path for path in mounted_paths(_mount_table()) if _is_mount(path) or _is_dead(path)]
    if len(found) == 1:
        return _checked(found[0])
    if not found:
        raise ClientError(errno.ENODEV, "nothing is mounted: try `nexusfs mount MNT`, or say --mnt")
    several = ", ".join(map(str, found))
    raise ClientError(errno.ENODEV, f"several mounts: {several}; say which one with --mnt")


def mounted_paths(table: str) -> list[Path]:
    r"""Where NexusFS is mounted, by a mount table; blanks in it are octal, such as `\040`.

    Source: fstab(5), getmntent(3).
    """
    paths = []
    for line in table.splitlines():
        source, path, kind, *_ = [*line.split(" "), "", "", ""]
        if kind == "fuse.nexusfs" or (kind == "fuse" and source == "nexusfs"):
            paths.append(Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)))
    return paths


def _checked(path: Path) -> Mount:
    try:
        for mark in MARKS:
            (path / mark).stat()
    except OSError as exc:
        if exc.errno == errno.ENOTCONN:
            why = _dead(path)
        elif exc.errno == errno.EACCES:
            why = f"{path} may not be entered by this user; mount it with --allow-other"
        else:
            why = f"no NexusFS is mounted at {path}; mount one with: nexusfs mount {path}"
        raise ClientError(errno.ENODEV, why) from None
    return Mount(path)


def _is_mount(path: Path) -> bool:
    try:
        return all((path / mark).exists() for mark in MARKS)
    except OSError:
        return False


def _is_dead(path: Path) -> bool:
    """True for a mount whose daemon is gone: what was meant was perhaps that one.

    statvfs always asks the daemon; stat may be answered from Linux's cache for an hour.
    """
    try:
        os.statvfs(path)
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def _dead(path: Path) -> str:
    return f"the mount at {path} is dead: mount it again with nexusfs mount {path}"


def _mount_table() -> str:
    try:
        return Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ClientError(exc.errno or errno.EIO, _sentence(name, exc)) from None


def _sentence(name: str, exc: OSError) -> str:
    process = re.match(r"proc/(\d+)/", name)
    if process and exc.errno in (errno.ENOENT, errno.ESRCH):
        return f"no process {process[1]}"
    return f"{name}: {exc.strerror}"


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read_rest(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, PIECE_BYTES):
        pieces.append(piece)
    return b"".join(pieces)


def _read_what_is_there(fd: int) -> bytes:
    try:
        return _read_rest(fd)
    except OSError:
        return b""


def _close_quietly(fd: int) -> None:
    with suppress(OSError):  # the flush before it has told; the descriptor is gone either way
        os.close(fd)
