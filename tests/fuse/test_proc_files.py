"""The files of proc/<pid>, and what programs that read make of them."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.shell import (
    call,
    end,
    errno_of,
    idle,
    ok,
    opened,
    play,
    read,
    reply,
    request,
    running,
    sh,
    spawn,
    until,
    wait,
    wchan,
)

pytestmark = pytest.mark.fuse

WHOLE = ("status", "status.json", "events", "messages.jsonl", "spec", "result", "stdout", "usage")
STATUS_KEYS = [
    "Name", "State", "Pid", "PPid", "Uid", "Gid", "Zone", "Agent", "Model", "Turns", "ToolCalls",
    "InputTokens", "OutputTokens", "CostUSD", "Wchan", "Sandbox", "Started", "Ended", "ExitCode",
    "Reason", "Priority", "Nice",
]  # fmt: skip


@pytest.fixture(scope="module")
def ended(mnt: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """An agent that read a file and has ended."""
    (mnt / "note").write_text("remember the milk\n")
    script = tmp_path_factory.mktemp("script") / "script.json"
    turns = (
        {"content": "I look.", **call("read_file", path="/note")},
        {"content": "Two lines:\nthe milk\n", "usage": {"input_tokens": 30, "output_tokens": 4}},
    )
    pid = play(mnt, script, *turns, name="reader", instructions="You read.")
    assert wait(mnt, pid) == f"{pid} 0 done"
    return pid


@pytest.fixture
def chatty(mnt: Path) -> Iterator[int]:
    """A chat agent that waits for a message, and goes when the test ends."""
    pid = idle(mnt)
    yield pid
    end(mnt, pid)


@pytest.fixture
def stuck(mnt: Path, tmp_path: Path) -> Iterator[int]:
    """A oneshot whose model never answers."""
    pid = play(mnt, tmp_path / "script.json", {"hang": True})
    until(lambda: wchan(mnt, pid) == "model")
    yield pid
    end(mnt, pid)


# -- programs that read

READERS = {
    "cat": 'cat "$1"',
    "head": 'head -c 1000000 "$1"',
    "tail": 'tail -c +1 "$1"',
    "less": 'less -f "$1" | cat',
    "dd": 'dd if="$1" bs=13 status=none',
    "sed": 'sed -n p "$1"',
    "awk": 'awk 1 "$1"',
    "cp": 'cp "$1" "$2/copy" && cat "$2/copy"',
    "rsync": 'rsync "$1" "$2/copy" && cat "$2/copy"',
    "tar": 'tar cf "$2/a.tar" "$1" && tar xOf "$2/a.tar"',
    "bash": 'mapfile < "$1"; printf %s "${MAPFILE[@]}"',
    "python": 'python3 -c "import sys; print(end=open(sys.argv[1]).read())" "$1"',
    "shutil": 'python3 -c "import shutil, sys; shutil.copyfile(*sys.argv[1:])" "$1" "$2/c"; cat "$2/c"',  # noqa: E501
    "busybox": 'busybox cat "$1"',
}


@pytest.mark.parametrize("name", ["status", "events", "messages.jsonl"])
@pytest.mark.parametrize("program", READERS)
def test_programs_read_the_whole_file(
    mnt: Path, ended: int, tmp_path: Path, program: str, name: str
) -> None:
    said = ok(sh(mnt, READERS[program], f"proc/{ended}/{name}", tmp_path))

    assert said == read(mnt, ended, name)
    assert len(said) > 100


@pytest.mark.parametrize("name", WHOLE)
def test_the_size_is_the_true_one(mnt: Path, ended: int, name: str) -> None:
    path = mnt / f"proc/{ended}/{name}"
    data = path.read_bytes()

    words = ok(sh(mnt, f'wc -c < proc/{ended}/{name}; stat -c %s "$1"; git hash-object "$1"', path))

    size, stated, hashed = words.split()
    assert int(size) == int(stated) == len(data)
    assert hashed == ok(sh(mnt, 'git hash-object --stdin < "$1"', path)).strip()


def test_rsync_a_and_tar_copy_a_whole_agent(mnt: Path, ended: int, tmp_path: Path) -> None:
    ok(sh(mnt, 'rsync -a "$1/" "$2/r" && mkdir "$2/t" && tar cf - -C "$1" . | tar xf - -C "$2/t"',
          f"proc/{ended}", tmp_path))  # fmt: skip

    for copy in ("r", "t"):
        for name in WHOLE:
            assert (tmp_path / copy / name).read_bytes() == read(mnt, ended, name).encode(), name


def test_tail_f_follows_the_events(mnt: Path, chatty: int) -> None:
    with running(mnt, "tail", "-c", "+1", "-s", "0.05", "-f", f"proc/{chatty}/stdout") as process:
        stdin = mnt / f"proc/{chatty}/stdin"
        stdin.write_text("one")
        assert process.stdout
        first = process.stdout.readline()
        stdin.write_text("two")
        second = process.stdout.readline()

    assert (first, second) == ("one\n", "two\n")


def test_an_open_status_does_not_change_and_a_new_open_shows_the_change(
    mnt: Path, chatty: int
) -> None:
    with opened(mnt / f"proc/{chatty}/status", os.O_RDONLY) as fd:
        half = os.read(fd, 30)
        end(mnt, chatty)
        rest = reply(fd)

    assert b"R (running)" in half + rest
    assert "X (stopped)" in read(mnt, chatty, "status")


def test_an_open_log_grows(mnt: Path, chatty: int) -> None:
    with opened(mnt / f"proc/{chatty}/events", os.O_RDONLY) as fd:
        before = reply(fd)
        (mnt / f"proc/{chatty}/stdin").write_text("hello")
        until(lambda: read(mnt, chatty, "stdout") == "hello\n")
        after = reply(fd)

    assert (before + after).decode() == read(mnt, chatty, "events")
    assert after and all(json.loads(line) for line in after.splitlines())


# -- what they say


def test_status_has_the_keys_of_the_contract_in_order(mnt: Path, ended: int) -> None:
    lines = read(mnt, ended, "status").splitlines()

    keys = [line.partition(":\t")[0] for line in lines]
    assert keys == STATUS_KEYS
    assert dict(line.split(":\t") for line in lines)["Name"] == "reader"


def test_the_transcript_is_shaped_as_providers_do(mnt: Path, ended: int) -> None:
    messages = [json.loads(line) for line in read(mnt, ended, "messages.jsonl").splitlines()]

    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    (wanted,) = messages[1]["tool_calls"]
    assert wanted["function"]["name"] == messages[2]["name"] == "read_file"
    assert wanted["id"] == messages[2]["tool_call_id"]
    assert messages[2]["content"] == "remember the milk\n"


def test_result_stdout_and_exit_code(mnt: Path, ended: int) -> None:
    assert read(mnt, ended, "result") == "Two lines:\nthe milk\n"
    assert read(mnt, ended, "stdout").startswith("I look.\nTwo lines:\nthe milk\n")
    assert read(mnt, ended, "exit_code") == "0\n"
    assert read(mnt, ended, "wait") == f"{ended} 0 done\n"
    assert read(mnt, ended, "wchan") == "0\n"
    assert read(mnt, ended, "children").strip() == ""


def test_usage_is_flat_keyed(mnt: Path, ended: int) -> None:
    usage = dict(line.split(" ") for line in read(mnt, ended, "usage").splitlines())

    assert (usage["turns"], usage["model_calls"], usage["tool_calls"]) == ("1", "2", "1")
    assert int(usage["input_tokens"]) > 30 and int(usage["output_tokens"]) > 4
    assert float(usage["cost_usd"]) == 0 and float(usage["wall_seconds"]) < 60


def test_result_and_exit_code_are_empty_until_the_end(mnt: Path, chatty: int) -> None:
    assert read(mnt, chatty, "result") == read(mnt, chatty, "exit_code") == ""


def test_status_json_says_the_same_for_machines(mnt: Path, ended: int) -> None:
    body = json.loads(read(mnt, ended, "status.json"))

    assert (body["pid"], body["ppid"], body["name"], body["state"]) == (
        ended,
        1,
        "reader",
        "stopped",
    )
    assert (body["exitcode"], body["reason"], body["turns"]) == (0, "done", 1)


def test_cwd_and_exe_are_relative_links(mnt: Path) -> None:
    (mnt / "work").mkdir()
    pid = spawn(mnt, agent="assistant", task="hello", cwd="/work")

    where, what = (os.readlink(mnt / f"proc/{pid}/{name}") for name in ("cwd", "exe"))

    assert not where.startswith("/") and not what.startswith("/")
    assert os.path.samefile(mnt / f"proc/{pid}/cwd", mnt / "work")
    assert os.path.samefile(mnt / f"proc/{pid}/exe", mnt / "bin/assistant.md")


def test_an_agent_that_is_not_installed_has_no_exe(mnt: Path, ended: int) -> None:
    assert errno_of(os.readlink, mnt / f"proc/{ended}/exe") == "ENOENT"
    assert "exe" not in os.listdir(mnt / f"proc/{ended}")


def test_children_lists_pids_and_wchan_says_model_or_tool(mnt: Path, stuck: int) -> None:
    assert str(stuck) in (mnt / "proc/1/children").read_text().split()
    assert wchan(mnt, stuck) == "model"


def test_self_does_not_exist_for_people(mnt: Path) -> None:
    assert errno_of(os.readlink, mnt / "proc/self") == "ENOENT"


# -- nothing can be put beside, over or away


@pytest.mark.parametrize("tree", ["proc", "dispatch", "sys", "proc/1", "sys/services"])
def test_nothing_can_be_made_in_a_control_tree(mnt: Path, tree: str) -> None:
    folder = mnt / tree
    (mnt / "mine").touch()

    failed = {
        "create": errno_of((folder / "new").write_text, "x"),
        "mkdir": errno_of((folder / "new").mkdir),
        "symlink": errno_of(os.symlink, "x", folder / "new"),
        "link": errno_of(os.link, mnt / "mine", folder / "new"),
        "mkfifo": errno_of(os.mkfifo, folder / "new"),
        "move in": errno_of(os.rename, mnt / "mine", folder / "new"),
    }

    expected = dict.fromkeys(failed, "EPERM")
    if tree == "dispatch":  # an unknown tool is ENOENT and names the nearest
        expected["create"] = failed["create"] if failed["create"] == "ENOENT" else "EPERM"
    assert failed == expected


@pytest.mark.parametrize(
    "name", ["proc/spawn", "dispatch/grep", "sys/version", "proc/{}/status", "proc/{}/ctl"]
)
def test_a_control_file_can_be_neither_moved_nor_removed_nor_replaced(
    mnt: Path, ended: int, name: str
) -> None:
    path = mnt / name.format(ended)
    (mnt / "mine").touch()
    before = path.read_bytes()

    failed = [
        errno_of(path.unlink),
        errno_of(os.rename, path, mnt / "moved"),
        errno_of(os.rename, path, path.with_name("moved")),
        errno_of(os.rename, mnt / "mine", path),
        errno_of(os.link, path, mnt / "linked"),
        errno_of(path.chmod, 0o777),
        errno_of(os.chown, path, 1, 1),
    ]

    assert failed == ["EPERM"] * len(failed)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["proc", "dispatch", "sys"])
def test_a_control_tree_itself_stays(mnt: Path, name: str) -> None:
    assert errno_of((mnt / name).rmdir) in ("EPERM", "EBUSY")
    assert errno_of(os.rename, mnt / name, mnt / "moved") in ("EPERM", "EBUSY")
    assert os.listdir(mnt / name)


@pytest.mark.parametrize(
    "script",
    [
        "sed -i s/a/b/ sys/config", "rsync README proc/spawn", "rsync README sys/version",
        "rm -f proc/spawn", "mv README proc/", "touch proc/new", "install README proc/spawn",
        "cp -r bin dispatch/", "rm -rf sys",
    ],
)  # fmt: skip
def test_editors_and_copiers_shadow_nothing(mnt: Path, script: str) -> None:
    before = sorted(os.listdir(mnt / "proc")), sorted(os.listdir(mnt / "sys"))

    done = sh(mnt, script)

    assert done.returncode != 0
    assert (sorted(os.listdir(mnt / "proc")), sorted(os.listdir(mnt / "sys"))) == before
    assert (mnt / "README").read_text()


@pytest.mark.parametrize("name", ["status", "events", "wait", "result"])
def test_what_is_read_cannot_be_written(mnt: Path, ended: int, name: str) -> None:
    assert errno_of(os.open, mnt / f"proc/{ended}/{name}", os.O_WRONLY) in ("EACCES", "EPERM")


def test_what_is_read_cannot_be_truncated(mnt: Path, ended: int) -> None:
    before = read(mnt, ended, "status")

    failed = errno_of(os.truncate, mnt / f"proc/{ended}/status", 0)

    assert failed in ("EACCES", "EPERM", "EINVAL", "")
    assert read(mnt, ended, "status") == before


def test_control_trees_look_like_procfs(mnt: Path, ended: int) -> None:
    for name in ("proc", "sys", f"proc/{ended}"):
        st = (mnt / name).stat()
        assert stat.S_IMODE(st.st_mode) == 0o555 and st.st_nlink >= 2

    said = ok(sh(mnt, "find proc sys dispatch -type f | wc -l; ls -laR proc/ > /dev/null"))
    assert int(said) > 20


def test_sys_tells_about_the_kernel(mnt: Path, ended: int) -> None:
    sys_ = mnt / "sys"
    flat = dict(line.split(" ") for line in (sys_ / "sessions").read_text().splitlines())
    models = [json.loads(line)["model"] for line in (sys_ / "models").read_text().splitlines()]

    assert set(os.listdir(sys_)) >= {
        "version", "metrics", "error_log", "config", "models", "services", "mounts", "sessions",
    }  # fmt: skip
    assert {"open_handles", "blocked_calls"} <= flat.keys()
    assert "offline/demo" in models
    assert {(sys_ / "services" / name).read_text() for name in os.listdir(sys_ / "services")} == {
        "running\n"
    }
    assert "nexusfs_crashes_total 0" in (sys_ / "metrics").read_text()


def test_a_path_into_the_mount_in_a_spec_is_rooted_at_the_mount(mnt: Path) -> None:
    failed, said = request(mnt / "dispatch/read_file", {"path": "/nexus/note"})

    assert not failed
    assert json.loads(said)["output"] == (mnt / "note").read_text()


def test_no_two_files_of_the_control_trees_have_one_inode_number(mnt: Path) -> None:
    spawn(mnt, name="talk", mode="chat")
    request(mnt / "proc/1/delegate", {"message": "hello", "worker": {"model": "offline/echo"}})
    found: dict[int, list[str]] = {}
    for top in ("proc", "dispatch", "sys"):
        listed = sh(mnt, "find $1 -printf '%i %p\\n'", mnt / top).stdout.splitlines()
        for line in {*listed, *_last(mnt / top)}:
            number, _, path = line.partition(" ")
            found.setdefault(int(number), []).append(path)

    assert [paths for paths in found.values() if len(set(paths)) > 1] == []


def _last(top: Path) -> list[str]:
    """The hidden links, which `find` may not list."""
    places = [top / ".last", *top.glob("*/tasks/.last")]
    return [f"{link.lstat().st_ino} {link}" for link in places if link.is_symlink()]
