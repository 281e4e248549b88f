"""The files of proc/<pid>: what programs read of them, what writes to them do, who may."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.shell import (
    PATIENCE_S,
    SHELLS,
    call,
    ctl,
    end,
    errno_of,
    errors,
    events,
    idle,
    ok,
    opened,
    pids,
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

NOBODY = 65534
WHOLE = ("status", "status.json", "events", "messages.jsonl", "spec", "result", "stdout", "usage")
PUBLIC = {"status", "status.json", "children", "wchan", "wait", "exit_code"}


@pytest.fixture(scope="module")
def mnt(mounts: Mounts) -> Path:
    return mounts.mount("a", "--allow-other")


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
    assert (
        keys
        == (
            "Name State Pid PPid Uid Gid Zone Agent Model Turns ToolCalls InputTokens OutputTokens "
            "CostUSD Wchan Sandbox Started Ended ExitCode Reason"
        ).split()
    )
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


def test_later_files_are_absent_and_not_faked(mnt: Path, ended: int) -> None:
    later = {"limits", "grants", "delegate", "tasks", "approvals", "checkpoints"}

    assert not later & set(os.listdir(mnt / f"proc/{ended}"))


def test_self_does_not_exist_for_people(mnt: Path) -> None:
    assert errno_of(os.readlink, mnt / "proc/self") == "ENOENT"


# -- ctl


def failed_ctl(mnt: Path, pid: int, line: str) -> str:
    return errno_of(ctl, mnt, pid, line)


def test_the_verbs_of_a_running_agent(mnt: Path, chatty: int) -> None:
    verbs = read(mnt, chatty, "ctl").split()

    assert set("term kill int stop cont steer reap".split()) <= set(verbs)
    assert failed_ctl(mnt, chatty, "cont") == "EBUSY"
    assert failed_ctl(mnt, chatty, "reap") == "EBUSY"
    assert failed_ctl(mnt, chatty, "int") == "EBUSY"
    assert failed_ctl(mnt, chatty, "hurt") == "EINVAL"
    assert failed_ctl(mnt, chatty, "steer") == "EINVAL"
    assert "R (running)" in read(mnt, chatty, "status")


@pytest.mark.parametrize("shell", SHELLS)
def test_an_unknown_verb_fails_the_echo_and_names_the_verbs(
    mnt: Path, chatty: int, shell: str
) -> None:
    done = sh(mnt, f"echo trem > proc/{chatty}/ctl", shell=shell)

    assert done.returncode != 0
    assert errors(mnt)[-1]["path"] == f"/proc/{chatty}/ctl"
    assert "term" in errors(mnt)[-1]["message"]


def test_stop_and_cont(mnt: Path, chatty: int) -> None:
    ctl(mnt, chatty, "stop")
    paused = read(mnt, chatty, "status")
    again = failed_ctl(mnt, chatty, "stop")
    (mnt / f"proc/{chatty}/stdin").write_text("hello")
    time.sleep(0.2)
    quiet = read(mnt, chatty, "stdout")
    ctl(mnt, chatty, "cont")

    until(lambda: read(mnt, chatty, "stdout") == "hello\n")
    assert "T (paused)" in paused
    assert again == "EBUSY"
    assert quiet == ""
    assert failed_ctl(mnt, chatty, "cont") == "EBUSY"


def test_a_paused_agent_can_be_ended(mnt: Path, chatty: int) -> None:
    ctl(mnt, chatty, "stop")

    ctl(mnt, chatty, "term I changed my mind")

    assert wait(mnt, chatty) == f"{chatty} -15 I changed my mind"


@pytest.mark.parametrize("verb", ["term", "kill", "int", "stop", "cont", "steer hello"])
def test_an_ended_agent_takes_no_verb_but_reap(mnt: Path, ended: int, verb: str) -> None:
    assert failed_ctl(mnt, ended, verb) == "EBUSY"


def test_kill_is_minus_9_and_term_minus_15_with_a_reason(mnt: Path) -> None:
    first, second, third = idle(mnt), idle(mnt), idle(mnt)

    ctl(mnt, first, "kill")
    ctl(mnt, second, "term")
    ctl(mnt, third, "kill too slow")

    assert wait(mnt, first) == f"{first} -9 killed"
    assert wait(mnt, second) == f"{second} -15 terminated"
    assert wait(mnt, third) == f"{third} -9 too slow"
    assert "ExitCode:\t-9\nReason:\ttoo slow\n" in read(mnt, third, "status")


def test_int_ends_a_oneshot_with_minus_2(mnt: Path, stuck: int) -> None:
    ctl(mnt, stuck, "int")

    assert wait(mnt, stuck).split()[1] == "-2"


def test_int_drops_the_turn_of_a_chat_agent_which_then_waits(mnt: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(
        json.dumps({"conversations": [
            {"match_last": "hang", "turns": [{"hang": True}]},
            {"match_last": "talk", "turns": [{"content": "still here"}]},
        ]})
    )  # fmt: skip
    pid = spawn(mnt, mode="chat", model=f"offline/script:{tmp_path / 's.json'}", task="hang")
    until(lambda: wchan(mnt, pid) == "model")

    ctl(mnt, pid, "int")
    until(lambda: wchan(mnt, pid) == "message")
    (mnt / f"proc/{pid}/stdin").write_text("talk")

    until(lambda: read(mnt, pid, "stdout") == "still here\n")
    end(mnt, pid)


def test_steer_reaches_a_oneshot_at_its_next_turn(mnt: Path, tmp_path: Path) -> None:
    pid = play(
        mnt, tmp_path / "s.json", {"delay_s": 0.4, **call("list_dir", path="/bin")},
        {"content": "done"},
    )  # fmt: skip
    until(lambda: wchan(mnt, pid) == "model")

    ctl(mnt, pid, "steer look in /etc instead")
    wait(mnt, pid)

    users = [json.loads(line) for line in read(mnt, pid, "messages.jsonl").splitlines()]
    assert [m["content"] for m in users if m["role"] == "user"] == [
        "go", "look in /etc instead",
    ]  # fmt: skip


def test_reap_removes_an_ended_agent(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    wait(mnt, pid)

    ctl(mnt, pid, "reap")

    assert pid not in pids(mnt)
    assert errno_of(os.listdir, mnt / f"proc/{pid}") == "ENOENT"


def test_an_open_file_of_a_reaped_agent_can_still_be_read(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    wait(mnt, pid)

    with opened(mnt / f"proc/{pid}/status", os.O_RDONLY) as fd:
        ctl(mnt, pid, "reap")
        said = reply(fd)

    assert said.startswith(b"Name:")


def test_an_agent_that_is_gone_is_esrch_to_an_open_ctl(mnt: Path) -> None:
    pid = spawn(mnt, task="hello")
    wait(mnt, pid)

    with opened(mnt / f"proc/{pid}/ctl", os.O_WRONLY) as fd:
        os.write(fd, b"reap\n")
        assert errno_of(os.write, fd, b"reap\n") == "ESRCH"


# -- stdin


def test_two_writes_of_one_handle_are_two_messages(mnt: Path, chatty: int) -> None:
    ok(sh(mnt, f"exec 3>proc/{chatty}/stdin; echo one >&3; echo two >&3"))

    until(lambda: read(mnt, chatty, "stdout").count("\n") == 2 or len(inputs(mnt, chatty)) == 2)
    assert inputs(mnt, chatty) == ["one", "two"]


def inputs(mnt: Path, pid: int) -> list[str]:
    """The messages that arrived, in order."""
    return [event["text"] for event in events(mnt, pid) if event["type"] == "message"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_message_has_all_lines_up_to_the_flush(mnt: Path, chatty: int, shell: str) -> None:
    ok(sh(mnt, f"printf 'one\\ntwo\\n' | cat > proc/{chatty}/stdin", shell=shell))

    assert inputs(mnt, chatty) == ["one\ntwo"]


def test_fsync_ends_a_message_too(mnt: Path, chatty: int) -> None:
    with opened(mnt / f"proc/{chatty}/stdin", os.O_WRONLY) as fd:
        os.write(fd, b"one ")
        os.write(fd, b"message")
        os.fsync(fd)
        os.write(fd, b"another")

    assert inputs(mnt, chatty) == ["one message", "another"]


def test_opening_and_closing_sends_nothing(mnt: Path, chatty: int) -> None:
    ok(sh(mnt, f": > proc/{chatty}/stdin; true >> proc/{chatty}/stdin"))

    assert inputs(mnt, chatty) == []


def test_a_chat_agent_answers_each_message(mnt: Path, chatty: int) -> None:
    for number in range(3):
        (mnt / f"proc/{chatty}/stdin").write_text(f"number {number}")
        until(lambda: read(mnt, chatty, "stdout").count("\n") > number)  # noqa: B023

    assert read(mnt, chatty, "stdout") == "number 0\nnumber 1\nnumber 2\n"
    assert read(mnt, chatty, "exit_code") == ""


def test_a_message_to_an_ended_agent_is_epipe(mnt: Path, ended: int) -> None:
    with open(mnt / f"proc/{ended}/stdin", "wb", buffering=0) as file:
        file.write(b"hello")
        assert errno_of(os.fsync, file.fileno()) == "EPIPE"

    done = sh(mnt, f"echo hello | cat > proc/{ended}/stdin")
    assert done.returncode != 0 and "Broken pipe" in done.stderr


def test_a_oneshot_reads_a_message_at_its_next_turn(mnt: Path, tmp_path: Path) -> None:
    pid = play(
        mnt, tmp_path / "s.json", {"delay_s": 0.4, **call("list_dir", path="/bin")},
        {"content": "done"},
    )  # fmt: skip
    until(lambda: wchan(mnt, pid) == "model")

    (mnt / f"proc/{pid}/stdin").write_text("and /etc")
    wait(mnt, pid)

    assert inputs(mnt, pid) == ["go", "and /etc"]
    assert '"and /etc"' in read(mnt, pid, "messages.jsonl")


def test_a_message_over_4_mib_is_efbig(mnt: Path, chatty: int) -> None:
    with opened(mnt / f"proc/{chatty}/stdin", os.O_WRONLY) as fd:
        piece = b"x" * (1 << 16)
        with pytest.raises(OSError, match="File too large"):
            for _ in range(65):
                os.write(fd, piece)

    assert inputs(mnt, chatty) == []


def test_the_closing_turn_is_exit_code_3(mnt: Path, tmp_path: Path) -> None:
    turn = call("list_dir", path="/bin")

    pid = play(mnt, tmp_path / "s.json", turn, {"content": "so far"}, max_turns=1)

    assert wait(mnt, pid) == f"{pid} 3 max_turns (1) reached"
    assert read(mnt, pid, "result") == "so far\n"


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
    for name in ("proc", "dispatch", "sys", f"proc/{ended}"):
        st = (mnt / name).stat()
        assert stat.S_IMODE(st.st_mode) == 0o555 and st.st_nlink >= 2

    said = ok(sh(mnt, "find proc sys dispatch -type f | wc -l; ls -laR proc/ > /dev/null"))
    assert int(said) > 20


# -- other users


def as_nobody(mnt: Path, script: str) -> subprocess.CompletedProcess[str]:
    return sh(mnt, script, user=NOBODY)


def test_everybody_reads_exactly_what_the_contract_lists(mnt: Path, ended: int) -> None:
    script = f'cd proc/{ended}; for f in *; do [ -d "$f" ] || cat "$f" > /dev/null 2>&1 && echo "$f"; done'

    readable = set(ok(as_nobody(mnt, script)).split()) - {"dispatch", "cwd"}

    assert readable == PUBLIC


@pytest.mark.parametrize("name", ["cwd", "exe"])
def test_the_links_of_an_agent_are_its_owners(mnt: Path, name: str) -> None:
    pid = spawn(mnt, agent="assistant", task="hello")

    done = as_nobody(mnt, f"readlink proc/{pid}/{name}")

    assert done.returncode != 0 and done.stdout == ""


def test_root_s_agent_cannot_be_ended_nor_told_by_others(mnt: Path, chatty: int) -> None:
    by_ctl = as_nobody(mnt, f"exec 3>proc/{chatty}/ctl; echo kill >&3")
    by_stdin = as_nobody(mnt, f"echo hello > proc/{chatty}/stdin")
    by_tool = as_nobody(mnt, f"ls proc/{chatty}/dispatch")

    assert "not permitted" in by_ctl.stderr
    assert "Permission denied" in by_stdin.stderr and "Permission denied" in by_tool.stderr
    assert "R (running)" in read(mnt, chatty, "status")
    assert inputs(mnt, chatty) == []


def test_another_user_spawns_and_owns_and_root_sees_it(mnt: Path) -> None:
    script = (
        'exec 3<>proc/spawn; echo \'{"model":"offline/echo","mode":"chat"}\' >&3;'
        "read -r pid <&3; echo hello > proc/$pid/stdin; head -c 6 proc/$pid/stdout_pipe;"
        "echo kill > proc/$pid/ctl; cat proc/$pid/wait proc/$pid/usage > /dev/null; echo $pid;"
        "stat -c %u proc/$pid/status"
    )

    said = ok(as_nobody(mnt, script)).split()

    assert said[0] == "hello" and said[2] == str(NOBODY)
    assert f"Uid:\t{NOBODY}\n" in read(mnt, int(said[1]), "status")
    assert read(mnt, int(said[1]), "stdout") == "hello\n"


def test_each_user_has_his_own_error_log_last_and_calls(mnt: Path) -> None:
    ok(sh(mnt, 'echo \'{"path": "/README"}\' > dispatch/read_file'))
    sh(mnt, "echo my own mistake > proc/spawn")
    mine = errors(mnt)

    done = as_nobody(
        mnt, "echo '{\"modle\": 1}' > proc/spawn; cat sys/error_log; ls dispatch/.calls; ls -A proc"
    )

    assert "'modle'" in done.stdout and "my own mistake" not in done.stdout
    assert "call_" not in done.stdout and ".last" not in done.stdout
    assert errors(mnt) == mine


def test_a_tool_acts_with_the_rights_of_its_caller(mnt: Path) -> None:
    (mnt / "secret").write_text("x")
    (mnt / "secret").chmod(0o600)

    done = as_nobody(mnt, 'exec 3<>dispatch/read_file; echo \'{"path": "/secret"}\' >&3; cat <&3')

    said = json.loads(done.stdout)
    assert not said["success"] and "permission denied" in said["error"]


def test_an_agent_acts_with_the_rights_of_its_spawner(mnt: Path) -> None:
    (mnt / "hidden").write_text("x")
    (mnt / "hidden").chmod(0o600)
    spec = json.dumps({"model": "offline/demo", "task": "read /hidden"})

    pid = ok(as_nobody(
        mnt, f"exec 3<>proc/spawn; echo '{spec}' >&3; read -r pid <&3; cat proc/$pid/wait"
    )).split()[0]  # fmt: skip

    (result,) = [e for e in events(mnt, int(pid)) if e["type"] == "tool_result"]
    assert "permission denied" in result["error"]


def test_an_installed_agent_that_the_caller_may_not_read_is_eacces(mnt: Path) -> None:
    agent = mnt / "bin/private.md"
    agent.write_text("---\nmodel: offline/echo\n---\nSecret.\n")
    agent.chmod(0o700)

    done = as_nobody(mnt, "echo private hello > proc/spawn")

    assert "Permission denied" in done.stderr


def test_a_handle_keeps_its_openers_rights(mnt: Path, chatty: int) -> None:
    done = sh(
        mnt, f"exec 3>proc/{chatty}/ctl; setpriv --reuid={NOBODY} --clear-groups echo stop >&3"
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "T (paused)" in read(mnt, chatty, "status")


def test_a_path_into_the_mount_in_a_spec_is_rooted_at_the_mount(mnt: Path) -> None:
    failed, said = request(mnt / "dispatch/read_file", {"path": "/nexus/note"})

    assert not failed
    assert json.loads(said)["output"] == (mnt / "note").read_text()


def test_a_terminal_program_that_is_interrupted_leaves_the_agent_alone(
    mnt: Path, chatty: int
) -> None:
    with running(mnt, sys.executable, "-c", "open('proc/%d/wait').read()" % chatty) as p:
        time.sleep(0.4)
        p.send_signal(signal.SIGINT)
        p.wait(timeout=PATIENCE_S)

    assert "R (running)" in read(mnt, chatty, "status")
