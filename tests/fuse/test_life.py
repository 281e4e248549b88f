"""Mounts that come and go: unmounting, killing, reloading, and what is there afterwards."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import NEXUSFS, Mounts
from tests.fuse.shell import (
    PATIENCE_S,
    blocked,
    call,
    ctl,
    daemon,
    errno_of,
    errors,
    events,
    held,
    idle,
    opened,
    pids,
    play,
    read,
    request,
    running,
    sh,
    spawn,
    until,
    wait,
    wchan,
)

pytestmark = pytest.mark.fuse

PLUGINS = Path(__file__).parent / "plugins"


WITH_SLOW_TOOLS = {"NEXUSFS_TOOL_MODULES": '["slow_tools"]', "PYTHONPATH": str(PLUGINS)}
LARGE = bytes(range(256)) * 4096
AGENT_FILES = (
    "status", "events", "messages.jsonl", "result", "stdout", "spec", "exit_code", "wait", "usage",
)  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mounts]:
    """Mounts of one test alone."""
    made = Mounts(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file of `mnt`."""
    file = tmp_path_factory.mktemp("config") / "nexusfs.toml"
    file.write_text("retain_count = 70\nlog_backups = 3\n")
    return file


@pytest.fixture(scope="module")
def mnt(mounts: Mounts, settings: Path) -> Path:
    environment = {"NEXUSFS_LOG_MAX_BYTES": "5000", "NEXUSFS_LOG_BACKUPS": "2"}
    return mounts.mount("a", "--config", str(settings), env=environment)


def gone(pid: int) -> bool:
    """True when a process that is not our child has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def kill_daemon(mnt: Path, number: signal.Signals = signal.SIGKILL) -> None:
    pid = daemon(mnt)
    os.kill(pid, number)
    until(lambda: gone(pid))


def config(mnt: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((mnt / "sys/config").read_text())["values"]
    return values


def is_mounted(mnt: Path) -> bool:
    return f" {mnt} fuse" in Path("/proc/self/mounts").read_text()


# -- what is there at the next mount, however the last one ended


@dataclass(frozen=True)
class Again:
    """A store that is mounted for the second time; pids of what it held, and their files."""

    mnt: Path
    ended: int
    reaped: int
    chat: int
    oneshot: int
    calling: int
    before: dict[str, str]


@pytest.fixture(scope="module", params=["umount", "SIGKILL", "SIGTERM"])
def again(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Again]:
    folder = tmp_path_factory.mktemp("again")
    own = Mounts(folder)
    mnt = own.mount(env={**WITH_SLOW_TOOLS, "NEXUSFS_STOP_GRACE_S": "0.3"})
    fill(mnt)
    ended = play(mnt, folder / "0", call("read_file", path="/docs/small"), {"content": "ok"})
    wait(mnt, ended)
    chat = idle(mnt)
    (mnt / f"proc/{chat}/stdin").write_text("first")
    oneshot = play(
        mnt, folder / "1", call("write_file", path="/made", content="x"),
        {"content": "ready", "delay_s": 0.6},
    )  # fmt: skip
    calling = play(
        mnt, folder / "2", call("linger", seconds=60, note="/note"), {"content": "I see"}
    )  # fmt: skip
    reaped = spawn(mnt, task="hello")
    wait(mnt, reaped)
    ctl(mnt, reaped, "reap")
    until(lambda: wchan(mnt, calling) == "tool:linger")
    until(lambda: read(mnt, oneshot, "usage").startswith("turns 1\n"))
    until(lambda: read(mnt, chat, "stdout") == "first\n")
    before = {name: read(mnt, ended, name) for name in AGENT_FILES}
    if request.param == "umount":
        own.umount(mnt)
    else:
        kill_daemon(mnt, signal.Signals[request.param])
    own.mount(env=WITH_SLOW_TOOLS)
    yield Again(mnt, ended, reaped, chat, oneshot, calling, before)
    own.close()


def fill(mnt: Path) -> None:
    """Ordinary files of all kinds."""
    (mnt / "docs").mkdir()
    (mnt / "docs/large").write_bytes(LARGE)
    (mnt / "docs/small").write_text("small\n")
    (mnt / "docs/small").chmod(0o640)
    os.symlink("small", mnt / "docs/link")
    (mnt / "log").touch()
    with opened(mnt / "log", os.O_WRONLY | os.O_APPEND) as fd:
        for number in range(100):
            os.write(fd, b"line %d\n" % number)
    os.rename(mnt / "log", mnt / "docs/log")


def test_files_are_there_again(again: Again) -> None:
    docs = again.mnt / "docs"

    assert (docs / "large").read_bytes() == LARGE
    assert (docs / "link").read_text() == "small\n"
    assert (docs / "small").stat().st_mode == 0o100640
    assert (docs / "log").read_text().splitlines()[-1] == "line 99"
    assert not (again.mnt / "log").exists()


@pytest.mark.parametrize("name", AGENT_FILES)
def test_an_ended_agent_is_there_again_to_the_byte(again: Again, name: str) -> None:
    assert read(again.mnt, again.ended, name) == again.before[name]


def test_pids_are_never_used_again(again: Again) -> None:
    before = pids(again.mnt)

    pid = spawn(again.mnt, task="hello")

    assert again.reaped not in before
    assert pid > max(again.reaped, *before)


def test_a_chat_agent_goes_on(again: Again) -> None:
    until(lambda: wchan(again.mnt, again.chat) == "message")

    (again.mnt / f"proc/{again.chat}/stdin").write_text("second")

    until(lambda: read(again.mnt, again.chat, "stdout") == "first\nsecond\n")
    assert "R (running)" in read(again.mnt, again.chat, "status")


def test_a_oneshot_goes_on_and_repeats_no_finished_call(again: Again) -> None:
    said = wait(again.mnt, again.oneshot)

    results = [e for e in events(again.mnt, again.oneshot) if e["type"] == "tool_result"]
    assert said == f"{again.oneshot} 0 done"
    assert len(results) == 1
    assert read(again.mnt, again.oneshot, "result") == "ready\n"


def test_a_call_that_was_cut_off_is_told_to_the_model_and_not_repeated(again: Again) -> None:
    said = wait(again.mnt, again.calling)

    (result,) = [e for e in events(again.mnt, again.calling) if e["type"] == "tool_result"]
    assert said == f"{again.calling} 0 done"
    assert "interrupted" in result["message"]["content"]
    assert (
        errno_of((again.mnt / "note").read_text) == "ENOENT"
        or "done" not in (again.mnt / "note").read_text()
    )


# -- a daemon that dies


def test_a_killed_daemon_leaves_errors_and_no_empty_directory(own: Mounts) -> None:
    mnt = own.mount()
    pid = idle(mnt)

    with running(own.directory, "cat", str(mnt / f"proc/{pid}/wait")) as process:
        until(lambda: blocked(mnt) > 0)
        kill_daemon(mnt)
        _, said = process.communicate(timeout=PATIENCE_S)
    listed = sh(own.directory, 'sleep 0.3; ls "$1"', mnt)

    assert process.returncode == 1 and ("not connected" in said or "abort" in said)
    assert listed.returncode != 0, "the mount point looks like an empty directory"


def test_the_next_mount_works_where_a_daemon_died(own: Mounts) -> None:
    mnt = own.mount()
    with held(mnt / "README"):
        kill_daemon(mnt)

        own.mount()

    assert "proc/spawn" in (mnt / "README").read_text()


def test_the_next_mount_works_where_a_daemon_died_that_nobody_had_asked_anything(
    own: Mounts,
) -> None:
    mnt = own.mount()
    pid = int((own.store() / "lock").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}/fd").exists() or not os.listdir(f"/proc/{pid}/fd"))

    own.mount()

    assert "proc/spawn" in (mnt / "README").read_text()


def test_umount_cleans_up_after_a_dead_daemon(own: Mounts) -> None:
    mnt = own.mount()
    with held(mnt / "README"):
        kill_daemon(mnt)

        own.umount(mnt)

    assert not is_mounted(mnt)
    assert os.listdir(mnt) == []


# -- signals and unmounting


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_and_frees_readers(own: Mounts, number: signal.Signals) -> None:
    mnt = own.mount()
    pid = idle(mnt)

    with running(own.directory, "cat", str(mnt / f"proc/{pid}/wait")) as process:
        until(lambda: blocked(mnt) > 0)
        kill_daemon(mnt, number)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1 and "not connected" in said
    until(lambda: not is_mounted(mnt))


def test_sighup_reloads_and_a_bad_file_keeps_the_old(mnt: Path, settings: Path) -> None:
    log = Path(json.loads((mnt / "sys/mounts").read_text())["log"])

    settings.write_text('default_model = "offline/echo"\nretain_count = 80\n')
    os.kill(daemon(mnt), signal.SIGHUP)
    until(lambda: config(mnt)["retain_count"] == 80)
    settings.write_text("retain_cuont = 90\n")
    os.kill(daemon(mnt), signal.SIGHUP)
    until(lambda: "retain_cuont" in log.read_text())

    assert config(mnt)["retain_count"] == 80
    failed, pid = request(mnt / "proc/spawn", {"task": "hello"})
    assert not failed and wait(mnt, int(pid)) == f"{pid.strip()} 0 done"
    assert read(mnt, int(pid), "result") == "hello\n"  # the reloaded default model


def test_umount_with_an_open_file_is_ebusy_and_lazy_works(own: Mounts) -> None:
    mnt = own.mount()
    pid = daemon(mnt)
    (mnt / "note").write_text("kept")

    with held(mnt / "note"):
        busy = own.run("umount", str(mnt))
        alive = (mnt / "sys/version").read_text()
        lazy = own.run("umount", "-l", str(mnt))
        mounted = is_mounted(mnt)

    assert busy.returncode == 1 and "busy" in busy.stderr and busy.stderr.count("\n") == 1
    assert alive
    assert (lazy.returncode, mounted) == (0, False), lazy.stderr
    until(lambda: gone(pid))
    own.mount()
    assert (mnt / "note").read_text() == "kept"


def test_umount_returns_when_the_store_is_free(own: Mounts) -> None:
    mnt = own.mount()
    pid = daemon(mnt)
    idle(mnt)

    own.umount(mnt)

    assert gone(pid) and not is_mounted(mnt)


def test_umount_of_what_is_no_mount_is_one_line(mounts: Mounts, tmp_path: Path) -> None:
    done = mounts.run("umount", str(tmp_path))

    assert done.returncode == 1
    assert "not a NexusFS mount" in done.stderr and done.stderr.count("\n") == 1


# -- mounting


def test_a_second_mount_of_a_store_is_refused_in_one_line(
    mounts: Mounts, mnt: Path, tmp_path: Path
) -> None:
    done = mounts.run("mount", str(tmp_path), "--store", str(mounts.store()))

    assert done.returncode == 1
    assert str(daemon(mnt)) in done.stderr and str(mounts.store()) in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not is_mounted(tmp_path)
    assert (mnt / "sys/version").read_text()


def test_a_second_mount_at_the_same_place_is_refused_in_one_line(mounts: Mounts, mnt: Path) -> None:
    done = mounts.run("mount", str(mnt), "--store", str(mounts.store("b")))

    assert done.returncode == 1
    assert "umount" in done.stderr and done.stderr.count("\n") == 1


def test_a_mount_point_that_is_absent_is_one_line(mounts: Mounts, tmp_path: Path) -> None:
    done = mounts.run("mount", str(tmp_path / "absent"), "--store", str(tmp_path / "store"))

    assert done.returncode == 1
    assert "mkdir" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"), [("NEXUSFS_RETAIN_COUNT", "many"), ("NEXUSFS_TOOL_MODULES", "[")]
)
def test_a_bad_configuration_is_one_line_and_nothing_is_mounted(
    mounts: Mounts, tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "mnt").mkdir()

    done = mounts.run(
        "mount", str(tmp_path / "mnt"), "--store", str(tmp_path / "store"), env={name: value}
    )

    assert done.returncode == 1
    assert name.removeprefix("NEXUSFS_").lower() in done.stderr.lower()
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_mount_in_the_foreground_serves_until_ctrl_c(mounts: Mounts, tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()

    with running(
        tmp_path, NEXUSFS, "mount", "-f", str(mnt), "--store", str(tmp_path / "store")
    ) as process:
        until(lambda: is_mounted(mnt))
        version = (mnt / "sys/version").read_text()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)

    assert version
    assert process.returncode == 0
    assert not is_mounted(mnt)


def test_settings_are_visible(mounts: Mounts, mnt: Path, settings: Path) -> None:
    (row,) = [json.loads(line) for line in (mnt / "sys/mounts").read_text().splitlines()]
    shown = json.loads((mnt / "sys/config").read_text())

    assert row["mountpoint"] == str(mnt) and row["store"] == str(mounts.store())
    assert (row["log_max_bytes"], row["log_backups"]) == (5000, 2)
    assert Path(row["log"]).is_file()
    assert (shown["values"]["log_max_bytes"], shown["values"]["log_backups"]) == (5000, 2)
    assert shown["file"] == str(settings)
    assert shown["values"]["log_backups"] == 2  # not 3, as the file says
    assert shown["precedence"] == ["command line", "environment NEXUSFS_*", "file", "default"]


def test_the_log_is_rotated(mounts: Mounts, mnt: Path) -> None:
    for _ in range(100):
        os.kill(daemon(mnt), signal.SIGHUP)
    until((mounts.store() / "nexusfs.log.1").exists)

    logs = sorted(path.name for path in mounts.store().glob("nexusfs.log*"))
    assert logs[:2] == ["nexusfs.log", "nexusfs.log.1"] and len(logs) <= 3
    assert all((mounts.store() / name).stat().st_size <= 5000 for name in logs)


def test_the_shell_lines_of_the_readme_work(mnt: Path) -> None:
    lines = [line[4:] for line in (mnt / "README").read_text().splitlines() if line[:4] == "    "]
    chat = spawn(mnt, mode="chat", model="offline/demo")
    script = "\n".join(lines).replace("proc/2/", f"proc/{chat}/")

    done = sh(mnt, f"set -e\n{script}")

    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert wait(mnt, chat) == f"{chat} -15 enough"


def test_doctor_finds_nothing_missing_where_the_tests_run(mounts: Mounts) -> None:
    done = mounts.run("doctor")

    assert done.returncode == 0, done.stdout
    assert "fusermount3: ok" in done.stdout and "MISSING" not in done.stdout


# -- services


def test_without_agents_spawn_says_so_and_everything_else_works(own: Mounts) -> None:
    mnt = own.mount()
    pid = idle(mnt)
    own.umount(mnt)
    own.mount(env={"NEXUSFS_SERVICES_OFF": '["agents"]'})

    failed, said = request(mnt / "proc/spawn", {"task": "hello"})
    (mnt / "note").write_text("kept\n")
    tool, reply = request(mnt / "dispatch/read_file", {"path": "/note"})

    assert failed == "EOPNOTSUPP"
    assert "agents" in said and "off" in said
    assert errors(mnt)[-1]["message"] == said.strip()
    assert (mnt / "sys/services/agents").read_text() == "off\n"
    assert (mnt / "sys/services/tools").read_text() == "running\n"
    assert not tool and json.loads(reply)["output"] == "kept\n"
    own.umount(mnt)
    own.mount()
    until(lambda: wchan(mnt, pid) == "message")  # who lived meanwhile lives on


def test_without_models_agents_are_degraded_and_say_why(own: Mounts) -> None:
    mnt = own.mount(env={"NEXUSFS_SERVICES_OFF": '["models"]'})

    failed, said = request(mnt / "proc/spawn", {"task": "hello"})

    assert failed == "EOPNOTSUPP" and "models" in said
    assert (mnt / "sys/services/agents").read_text().startswith("degraded: ")


def test_tools_that_cannot_be_imported_are_degraded_and_the_mount_lives(own: Mounts) -> None:
    mnt = own.mount(env={"NEXUSFS_TOOL_MODULES": '["no_such_module"]'})

    state = (mnt / "sys/services/tools").read_text()
    pid = spawn(mnt, task="hello")

    assert state.startswith("degraded: ") and "no_such_module" in state
    assert wait(mnt, pid) == f"{pid} 0 done"


# -- another user


def test_a_mount_without_allow_other_is_closed_to_others(mounts: Mounts, mnt: Path) -> None:
    mounts.directory.parent.chmod(0o755)
    mounts.directory.chmod(0o755)

    done = sh(Path("/"), 'ls "$1"', mnt, user=65534)

    assert done.returncode != 0 and "Permission denied" in done.stderr
