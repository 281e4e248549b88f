"""The escape list: what a program in a sandbox tries, and where it ends. Every sandbox in turn."""

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.programs import gone, marked, run, sandboxes, tried
from tests.fuse.sandbox.boxes import LIMITS, SECRET, Held, answers, as_nobody
from tests.fuse.shell import daemon, until

pytestmark = pytest.mark.fuse

FORK_BOMB = (
    "bomb() { if [ $1 -gt 0 ]; then bomb $(($1 - 1)) & bomb $(($1 - 1)) & fi; sleep 7101; }; "
    "bomb 10 & exec sleep 7101"
)
"""2,047 processes if nothing holds them: enough to be told, too few to hurt who runs the test."""


JUGGLE_S = 0.005
"""A quarter of the sandboxes are planned with the directory and made with the link."""
MEMORY_BOMB = (
    "import os, time\n"
    "for _ in range(4):\n"
    "    if os.fork() == 0:\n"
    "        a = bytearray(100 << 20)\n"
    "        time.sleep(1000)\n"
    "time.sleep(0.3)\n"
)
"""400 MiB, each process within its own limit."""


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that every user may write to."""
    with tempfile.TemporaryDirectory(prefix="nexusfs-outside-") as directory:
        os.chmod(directory, 0o777)
        (Path(directory) / "file").write_text("the host's")
        (Path(directory) / "file").chmod(0o666)
        yield Path(directory)


# Files of the host


def test_nothing_outside_can_be_written(box: Held, outside: Path) -> None:
    places = [
        outside / "new",
        outside / "file",
        Path("/usr/new"),
        Path("/etc/passwd"),
        Path("/new"),
    ]

    said = run(box.mnt, "; ".join(f"echo x > {place}" for place in places))

    assert said.count("cannot create") == len(places)
    assert (outside / "file").read_text() == "the host's" and not (outside / "new").exists()


def test_nothing_of_the_host_can_be_read_but_programs(box: Held, outside: Path) -> None:
    secrets = [
        outside / "file",
        box.store / "nexusfs.log",
        Path("/etc/shadow"),
        Path("/root/.bashrc"),
    ]

    said = run(
        box.mnt, "; ".join(f"cat {place}" for place in [*secrets, "/usr/bin/env"]) + "| wc -c"
    )

    assert said.count("cat: ") == len(secrets)


def test_a_link_out_of_the_mount_leads_nowhere(box: Held, outside: Path) -> None:
    (box.mnt / "links").mkdir(exist_ok=True)
    os.symlink(outside / "file", box.mnt / f"links/{box.kind}")

    said = run(box.mnt, f"cat {box.kind}; echo x > {box.kind}", cwd="/links")

    assert "the host's" not in said and (outside / "file").read_text() == "the host's"


def test_a_directory_that_is_swapped_for_a_link_shows_nothing_of_the_host(
    box: Held, outside: Path
) -> None:
    swap, out = box.mnt / "swap", f"/oldroot{outside}" if box.kind == "bwrap" else str(outside)
    swap.mkdir()
    over = threading.Event()

    def juggle() -> None:
        while not over.is_set():
            os.rename(swap, box.mnt / "aside")
            os.symlink(out, swap)
            time.sleep(JUGGLE_S)
            os.unlink(swap)
            os.rename(box.mnt / "aside", swap)
            time.sleep(JUGGLE_S)

    juggler = threading.Thread(target=juggle)
    juggler.start()
    try:
        path = "/swap/file" if box.kind == "bwrap" else f"{swap}/file"
        replies = [tried(box.mnt, f"cat {path}; echo x > {path}") for _ in range(12)]
    finally:
        over.set()
        juggler.join()

    assert "the host's" not in json.dumps(replies)
    assert (outside / "file").read_text() == "the host's"
    assert {failed for failed, _ in replies} <= {"", "EOPNOTSUPP"}
    shutil.rmtree(swap, ignore_errors=True)


def test_the_agents_and_the_rules_of_the_mount_cannot_be_written(box: Held, agent: int) -> None:
    there = box.inside
    lines = [
        f"echo x > {there}/bin/evil.md", f"echo x >> {there}/bin/assistant.md",
        f"chmod 777 {there}/bin/assistant.md", f"rm {there}/bin/assistant.md",
        f"echo x > {there}/etc/hooks.json", f"mv {there}/etc {there}/other",
    ]  # fmt: skip
    installed = os.listdir(box.mnt / "bin")
    before = (box.mnt / "bin/assistant.md").read_text()

    said = run(box.mnt, "; ".join(f"{line} && echo done" for line in lines), agent=agent)

    if box.kind == "landlock":  # it can't take modes from who owns the file
        (box.mnt / "bin/assistant.md").chmod(0o755)
        said = said.replace("done\n", "", 1)
    assert "done" not in said
    assert (box.mnt / "bin/assistant.md").read_text() == before
    assert os.listdir(box.mnt / "bin") == installed and os.listdir(box.mnt / "etc") == []


def test_the_store_is_out_of_reach(box: Held) -> None:
    said = run(box.mnt, f"ls {box.store}; cat {box.store}/*; echo over")

    assert said.count("ls: ") + said.count("cat: ") >= 2


# Keys, processes, Linux


def test_no_key_is_in_any_environment_memory_or_descriptor(box: Held, agent: int) -> None:
    number = daemon(box.mnt)
    looks = [
        "env", "cat /proc/self/environ", f"cat /proc/{number}/environ", "cat /proc/*/environ",
        f"head -c 9999 /proc/{number}/fd/*", f"head -c 9999 /proc/{number}/mem",
        f"ls -l /proc/{number}/fd", "ls -l /proc/self/fd", "cat /proc/1/environ",
    ]  # fmt: skip

    said = run(box.mnt, f"({'; '.join(looks)}) < /dev/null 2>&1", agent=agent)

    assert SECRET not in said and "memfd" not in said
    assert "PATH=" in said  # it looked


def test_a_program_has_no_descriptor_but_its_three(box: Held) -> None:
    script = (
        "import os\n"
        "def is_open(fd):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: return False\n"
        "    return True\n"
        "print([fd for fd in range(1000) if is_open(fd)])"
    )

    assert run(box.mnt, script, "python").startswith("[0, 1, 2]\n")


def test_a_program_has_no_capability_and_gains_none(box: Held) -> None:
    script = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "CAP_GET = bytearray(24)\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "data = (ctypes.c_uint32 * 6)()\n"
        "libc.capget(header, data)\n"
        "print(list(data), libc.prctl(39, 0, 0, 0, 0))\n"  # PR_GET_NO_NEW_PRIVS
        "for call in (lambda: os.setuid(12345), lambda: os.chroot('/'),\n"
        "             lambda: os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))):\n"
        "    try: call(); print('done')\n"
        "    except OSError as exc: print(exc.errno)\n"
    )

    said = run(box.mnt, script, "python")

    assert said.startswith("[0, 0, 0, 0, 0, 0] 1\n") and "done" not in said


def test_linux_cannot_be_told_anything(box: Held) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()

    said = run(
        box.mnt,
        "echo '|/tmp/evil' > /proc/sys/kernel/core_pattern && echo done;"
        "echo b > /proc/sysrq-trigger && echo done; echo 1 > /sys/power/state && echo done; "
        "mount -t tmpfs none /tmp && echo done; unshare -Ur true && echo done",
    )

    assert "done" not in said
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_program_cannot_signal_or_trace_a_process_outside(box: Held) -> None:
    number, mine = daemon(box.mnt), os.getpid()

    said = run(
        box.mnt, f"kill -9 {number} && echo done; kill -STOP {mine} && echo done; kill -9 -1; true"
    )

    assert "done" not in said and answers(box)


def test_the_first_process_is_no_way_out(box: Held) -> None:
    said = run(
        box.mnt, "cat /proc/1/root/etc/shadow; ls /proc/1/root/root; kill -9 1; ls /proc/1/cwd/"
    )

    assert "root:" not in said and ".bashrc" not in said and answers(box)


def test_what_linux_keeps_in_no_namespace_is_refused(box: Held) -> None:
    script = (
        "import ctypes, socket, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "x86, arm = (250, 425, 321, 319), (219, 425, 280, 279)\n"
        "for number in x86 if os.uname().machine == 'x86_64' else arm:\n"
        "    print(libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
        "try: socket.socket(socket.AF_VSOCK); print('done')\n"
        "except OSError as exc: print(exc.errno)\n"
    )

    assert run(box.mnt, script, "python") == "-1 1\n-1 38\n-1 1\n-1 38\n13\n[exit code 0]"


# The network


@contextmanager
def listening(outside: Path) -> Iterator[dict[str, object]]:
    """Servers of the host, of every kind that a program could try."""
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0nexusfs-{os.getpid()}")
    abstract.listen()
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(outside / "socket"))
    (outside / "socket").chmod(0o777)
    named.listen()
    try:
        yield {
            "tcp": tcp.getsockname(), "udp": udp.getsockname(),
            "abstract": f"\0nexusfs-{os.getpid()}", "named": str(outside / "socket"),
        }  # fmt: skip
        for one in (tcp, udp, abstract, named):
            one.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody came
                one.recv(1) if one is udp else one.accept()
    finally:
        for one in (tcp, udp, abstract, named):
            one.close()


def test_no_socket_of_the_host_is_reached(box: Held, outside: Path) -> None:
    with listening(outside) as places:
        script = (
            f"import socket\nplaces = {places!r}\n"
            "kinds = {'tcp': (socket.AF_INET, socket.SOCK_STREAM),\n"
            "         'udp': (socket.AF_INET, socket.SOCK_DGRAM),\n"
            "         'abstract': (socket.AF_UNIX, socket.SOCK_STREAM),\n"
            "         'named': (socket.AF_UNIX, socket.SOCK_STREAM)}\n"
            "for name, place in places.items():\n"
            "    try:\n"
            "        s = socket.socket(*kinds[name]); s.settimeout(2)\n"
            "        s.connect(tuple(place) if isinstance(place, tuple) else place)\n"
            "        s.send(b'x')\n"
            "    except OSError as exc: print(exc)\n"
        )

        said = run(box.mnt, script, "python")

    assert said.endswith("[exit code 0]")


# Too much


def test_a_fork_bomb_is_contained(box: Held) -> None:
    failed, reply = tried(box.mnt, FORK_BOMB, timeout_s=1)

    assert failed in ("EREMOTEIO", "ETIMEDOUT") and "at most 40" in reply["error"]
    assert answers(box) and gone("7101", 1)


def test_a_fork_bomb_of_another_user_is_contained(box: Held) -> None:
    text = json.dumps({"command": FORK_BOMB, "timeout_s": 1})

    as_nobody(box.mnt / "dispatch/exec", text)

    assert answers(box) and gone("7101", 1)


def test_without_a_cgroup_a_tree_is_watched(reachable: Mounts) -> None:
    env = {**LIMITS, "NEXUSFS_SANDBOX__CGROUPS": "false"}
    box = Held("bwrap", mnt := reachable.mount("watched", env=env), reachable.store("watched"))

    forks, forked = tried(mnt, FORK_BOMB, timeout_s=20)
    memory, grown = tried(mnt, MEMORY_BOMB, "python", timeout_s=20)

    assert (forks, memory) == ("EREMOTEIO", "EREMOTEIO")
    assert "it had over 40 processes" in forked["error"]
    assert "over 128 MiB of memory" in grown["error"]
    assert answers(box) and gone("7101", 1)
    reachable.umount(mnt)


def test_a_memory_bomb_of_one_process_is_contained(box: Held) -> None:
    said = run(box.mnt, "a = []\nwhile True: a.append(bytearray(1 << 20))", "python")

    assert "MemoryError" in said and answers(box)


def test_a_memory_bomb_of_many_processes_is_contained(box: Held) -> None:
    failed, reply = tried(box.mnt, MEMORY_BOMB, "python", timeout_s=20)

    assert failed == "EREMOTEIO" and "over 128 MiB of memory" in reply["error"] and answers(box)


def test_an_output_flood_is_cut_off(box: Held) -> None:
    failed, reply = tried(box.mnt, "yes no & yes yes >&2")

    assert failed == "EREMOTEIO" and "over 2 MiB" in reply["error"]
    assert len(reply["error"]) < 100_000 and answers(box)


def test_a_stubborn_tree_ends_with_its_time(box: Held) -> None:
    script = (
        "import os, signal, subprocess\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        subprocess.Popen(['sleep', '7103'], start_new_session=True)\n"
        "signal.pause()\n"
    )

    failed, _ = tried(box.mnt, script, "python", timeout_s=0.5)

    assert failed == "ETIMEDOUT" and marked("7103") == [] and answers(box)


def test_too_many_programs_at_once_are_eagain(reachable: Mounts) -> None:
    mnt = reachable.mount("few", env={"NEXUSFS_SANDBOX__CALLS_PER_USER": "1"})
    fd = os.open(mnt / "dispatch/exec", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b'{"command": "sleep 1000"}')
    until(lambda: sandboxes(mnt) == 1)

    failed, reply = tried(mnt, "true")

    os.close(fd)
    reachable.umount(mnt)
    assert failed == "EAGAIN" and "wait until one has ended" in reply["error"]
