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
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.programs import LANDLOCK, gone, marked, run, sandboxes, tried
from tests.fuse.shell import daemon, end, idle, inputs, opened, pids, read, spawn, until

pytestmark = pytest.mark.fuse

SECRET = "sk-this-is-nobodys-business"
LIMITS = {
    "NEXUSFS_SANDBOX__OUTPUT_MB": "2", "NEXUSFS_SANDBOX__PROCESSES": "40",
    "NEXUSFS_SANDBOX__MEMORY_MB": "128", "OPENAI_API_KEY": SECRET,
}  # fmt: skip
NOBODY = 65534
FORK_BOMB = (
    "bomb() { if [ $1 -gt 0 ]; then bomb $(($1 - 1)) & bomb $(($1 - 1)) & fi; sleep 7101; }; "
    "bomb 10"
)
"""2,047 processes if nothing holds them: enough to be told, too few to hurt who runs the test."""


JUGGLE_S = 0.005
"""A quarter of the sandboxes are planned with the directory and made with the link."""
MEMORY_BOMB = (
    "import os, time\n"
    "for _ in range(8):\n"
    "    if os.fork() == 0:\n"
    "        a = bytearray(60 << 20)\n"
    "        time.sleep(1000)\n"
    "time.sleep(1)\n"
)
"""480 MiB, each process within its own limit."""


@dataclass(frozen=True)
class Held:
    """A mount whose programs one kind of sandbox holds."""

    kind: str
    mnt: Path
    store: Path

    @property
    def inside(self) -> str:
        """What a program calls the top of the mount."""
        return "/nexus" if self.kind == "bwrap" else str(self.mnt)


@pytest.fixture(scope="module")
def reachable() -> Iterator[Mounts]:
    with tempfile.TemporaryDirectory(prefix="nexusfs-escapes-") as directory:
        os.chmod(directory, 0o755)
        made = Mounts(Path(directory))
        yield made
        made.close()


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def box(request: pytest.FixtureRequest, reachable: Mounts) -> Held:
    env = {**LIMITS, **(LANDLOCK if request.param == "landlock" else {})}
    mnt = reachable.mount(request.param, "--allow-other", env=env)
    return Held(request.param, mnt, reachable.store(request.param))


@pytest.fixture
def agent(box: Held) -> Iterator[int]:
    pid = idle(box.mnt)
    assert f"Sandbox:\t{box.kind}\n" in read(box.mnt, pid, "status")
    yield pid
    end(box.mnt, pid)


@pytest.fixture
def other(box: Held) -> Iterator[int]:
    """Another agent of the same user."""
    pid = idle(box.mnt)
    yield pid
    end(box.mnt, pid)


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that every user may write to."""
    with tempfile.TemporaryDirectory(prefix="nexusfs-outside-") as directory:
        os.chmod(directory, 0o777)
        (Path(directory) / "file").write_text("the host's")
        (Path(directory) / "file").chmod(0o666)
        yield Path(directory)


def answers(box: Held) -> bool:
    """True when the mount serves as ever, and no sandbox is left."""
    until(lambda: sandboxes(box.mnt) == 0, 5)
    return (box.mnt / "README").exists() and "running" in read(box.mnt, 1, "status")


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
    before = (box.mnt / "bin/assistant.md").read_text()

    said = run(box.mnt, "; ".join(f"{line} && echo done" for line in lines), agent=agent)

    if box.kind == "landlock":  # it can't take modes from who owns the file
        (box.mnt / "bin/assistant.md").chmod(0o755)
        said = said.replace("done\n", "", 1)
    assert "done" not in said
    assert (box.mnt / "bin/assistant.md").read_text() == before
    assert os.listdir(box.mnt / "bin") == ["assistant.md"] and os.listdir(box.mnt / "etc") == []


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
    failed, reply = tried(box.mnt, FORK_BOMB, timeout_s=2)

    assert failed in ("EREMOTEIO", "ETIMEDOUT") and "at most 40" in reply["error"]
    assert answers(box) and gone("7101", 1)


def test_a_fork_bomb_of_another_user_is_contained(box: Held) -> None:
    text = json.dumps({"command": FORK_BOMB, "timeout_s": 1})

    _as_nobody(box.mnt / "dispatch/exec", text)

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


def _as_nobody(path: Path, text: str) -> None:
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with opened(path) as fd:
                os.write(fd, text.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)


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


# Who is asking


WAYS = {
    "directly": "{}",
    "forked": "sh -c '{}'",
    "forked twice": "(sh -c '{}' &) ; sleep 0.3",
    "in a session of its own": "setsid sh -c '{}'",
    "of a daemon": "setsid sh -c '({} &) ; sleep 0.2'",
    "as another user": "su nobody -s /bin/sh -c '{}' || setpriv --reuid=65534 {} || {}",
    "in a namespace inside": "unshare -Upf {} || {}",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_process_of_an_agent_is_that_agent_s(box: Held, agent: int, way: str) -> None:
    said = run(box.mnt, WAYS[way].replace("{}", f"readlink {box.inside}/proc/self"), agent=agent)

    assert f"{agent}\n" in said


def test_a_process_that_hides_is_that_agent_s(box: Held, agent: int) -> None:
    script = (
        "import ctypes, os\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"  # PR_SET_DUMPABLE
        f"print(os.readlink('{box.inside}/proc/self'))\n"
    )

    assert run(box.mnt, script, "python", agent=agent) == f"{agent}\n[exit code 0]"


def test_a_thread_of_an_agent_s_process_is_that_agent_s(box: Held, agent: int) -> None:
    script = (
        "import os, threading\n"
        f"look = lambda: print(os.readlink('{box.inside}/proc/self'))\n"
        "thread = threading.Thread(target=look); thread.start(); thread.join()\n"
    )

    assert run(box.mnt, script, "python", agent=agent) == f"{agent}\n[exit code 0]"


def test_people_s_programs_and_people_are_no_agent(box: Held, agent: int) -> None:
    with box_running(box, agent):
        assert not (box.mnt / "proc/self").is_symlink()
        assert "No such file" in run(box.mnt, f"ls {box.inside}/proc/self/")


@contextmanager
def box_running(box: Held, agent: int) -> Iterator[None]:
    """A program of the agent that lives meanwhile."""
    fd = os.open(box.mnt / f"proc/{agent}/dispatch/exec", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b'{"command": "sleep 1000"}')
    until(lambda: sandboxes(box.mnt) == 1)
    try:
        yield
    finally:
        os.close(fd)
        until(lambda: sandboxes(box.mnt) == 0)


def test_another_agent_is_neither_ended_nor_told_nor_used(
    box: Held, agent: int, other: int
) -> None:
    there = f"{box.inside}/proc/{other}"
    lines = [
        f"echo kill > {there}/ctl", f"echo stop > {there}/ctl", f"echo hello > {there}/stdin",
        f"echo {{}} > {there}/dispatch/list_dir",
    ]  # fmt: skip

    script = "; ".join(f"({line}) && echo done" for line in lines)
    said = run(box.mnt, ["bash", "-c", script], agent=agent)

    assert "done" not in said and said.count("not permitted") == len(lines)
    assert "R (running)" in read(box.mnt, other, "status") and inputs(box.mnt, other) == []


def test_an_agent_does_not_end_itself_nor_talk_to_itself(box: Held, agent: int) -> None:
    there = f"{box.inside}/proc/{agent}"

    said = run(
        box.mnt, f"(echo kill > {there}/ctl) && echo done; (echo hi > {there}/stdin) && echo done",
        agent=agent,
    )  # fmt: skip

    assert "done" not in said and inputs(box.mnt, agent) == []


def test_a_spawn_in_a_sandbox_makes_a_child_of_the_agent(box: Held, agent: int) -> None:
    spec = '{"model": "offline/echo", "mode": "chat"}'

    said = run(
        box.mnt, f"exec 3<>{box.inside}/proc/spawn; echo '{spec}' >&3; read pid <&3; echo $pid",
        agent=agent,
    )  # fmt: skip

    child = int(said.splitlines()[0])
    assert f"PPid:\t{agent}\n" in read(box.mnt, child, "status")
    assert read(box.mnt, agent, "children") == f"{child}\n"


def test_a_spawn_in_a_sandbox_gets_no_tool_that_the_agent_has_not(box: Held) -> None:
    pid = spawn(box.mnt, mode="chat", tools=["exec", "list_dir"])
    spec = '{"model": "offline/echo", "tools": ["exec", "write_file"]}'
    before = pids(box.mnt)

    script = (
        f"echo '{spec}' > {box.inside}/proc/spawn; ls {box.inside}/dispatch; "
        f"echo '{{}}' > {box.inside}/dispatch/write_file"
    )
    said = run(box.mnt, ["bash", "-c", script], agent=pid)

    assert "not permitted" in said and "exec\nlist_dir\n" in said
    assert "write_file: No such file" in said
    assert pids(box.mnt) == before and not (box.mnt / "x").exists()
    end(box.mnt, pid)


def test_a_private_file_of_another_user_stays_private(box: Held) -> None:
    (box.mnt / f"private-{box.kind}").write_text("root's")
    (box.mnt / f"private-{box.kind}").chmod(0o600)
    command = f"cat {box.inside}/private-{box.kind} > /dev/null && echo read"

    _as_nobody(box.mnt / "dispatch/exec", json.dumps({"command": command}))

    calls = sorted((box.mnt / "dispatch/.calls").iterdir(), key=lambda path: path.name)
    assert all("read\\n" not in path.read_text() for path in calls)
