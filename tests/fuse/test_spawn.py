"""proc/spawn as shells, programs and agents use it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.shell import (
    SHELLS,
    end,
    errors,
    ok,
    opened,
    pids,
    read,
    reply,
    request,
    running,
    sh,
    spawn,
    wait,
)

pytestmark = pytest.mark.fuse

ECHO = '{"model":"offline/echo","task":"hello"}'
AGENT = "---\nname: scribe\nmodel: offline/echo\ntask: one task\n---\nYou write.\n"
every_shell = pytest.mark.parametrize("shell", SHELLS)


@pytest.fixture(scope="module")
def installed(mnt: Path) -> Path:
    """bin, with an agent that may only look, a draft that is not executable, and a text."""
    folder = mnt / "bin"
    (folder / "looker.md").write_text(
        "---\nname: looker\nmodel: offline/echo\ntools: read_file, grep\n---\nYou look.\n"
    )
    (folder / "looker.md").chmod(0o755)
    (folder / "draft.md").write_text(AGENT)
    (folder / "draft.md").chmod(0o644)
    (folder / "letter.md").write_text("Dear all,\n")
    (folder / "letter.md").chmod(0o755)
    return folder


# -- the three forms


@every_shell
def test_echo_of_json_starts_an_agent(mnt: Path, shell: str) -> None:
    pid = ok(sh(mnt, f"echo '{ECHO}' > proc/spawn && readlink proc/.last", shell=shell))

    assert wait(mnt, int(pid)) == f"{pid.strip()} 0 done"
    assert read(mnt, int(pid), "result") == "hello\n"


@every_shell
def test_echo_of_a_name_and_a_task_starts_an_installed_agent(
    mnt: Path, installed: Path, shell: str
) -> None:
    pid = int(ok(sh(mnt, "echo looker what is new > proc/spawn && readlink proc/.last",
                    shell=shell)))  # fmt: skip

    assert wait(mnt, pid) == f"{pid} 0 done"
    assert read(mnt, pid, "result") == "what is new\n"
    assert "Agent:\tlooker\n" in read(mnt, pid, "status")


@every_shell
def test_cat_of_a_markdown_file_starts_an_agent(mnt: Path, tmp_path: Path, shell: str) -> None:
    file = tmp_path / "agent.md"
    file.write_text(AGENT)

    pid = int(ok(sh(mnt, 'cat "$1" > proc/spawn && readlink proc/.last', file, shell=shell)))

    assert wait(mnt, pid) == f"{pid} 0 done"
    assert json.loads(read(mnt, pid, "spec"))["instructions"].strip() == "You write."


@every_shell
def test_the_same_handle_reads_the_pid(mnt: Path, shell: str) -> None:
    script = (
        f"exec 3<>proc/spawn; echo '{ECHO}' >&3; read -r pid <&3; cat proc/$pid/wait; echo $pid"
    )

    said = ok(sh(mnt, script, shell=shell)).splitlines()

    assert said[0] == f"{said[1]} 0 done"


@every_shell
def test_one_handle_spawns_twice_and_reads_each_pid(mnt: Path, shell: str) -> None:
    script = (
        f"exec 3<>proc/spawn; echo '{ECHO}' >&3; read -r a <&3; echo '{ECHO}' >&3; read -r b <&3;"
        "echo $a $b"
    )

    first, second = map(int, ok(sh(mnt, script, shell=shell)).split())

    assert second == first + 1


@every_shell
def test_json_over_several_lines_is_one_spec(mnt: Path, shell: str) -> None:
    spec = '{\n  "model": "offline/echo",\n  "task": "one } two"\n}'
    before = pids(mnt)

    pid = int(ok(sh(mnt, f"echo '{spec}' > proc/spawn && readlink proc/.last", shell=shell)))

    assert pids(mnt) - before == {pid}
    wait(mnt, pid)
    assert read(mnt, pid, "result") == "one } two\n"


@every_shell
@pytest.mark.parametrize("text", [ECHO, "looker what is new", AGENT.rstrip("\n")])
def test_printf_without_a_newline_works_too(
    mnt: Path, installed: Path, shell: str, text: str
) -> None:
    pid = int(ok(sh(mnt, 'printf %s "$1" > proc/spawn && readlink proc/.last', text, shell=shell)))

    assert wait(mnt, pid) == f"{pid} 0 done"


def test_a_heredoc_is_a_spec(mnt: Path) -> None:
    pid = int(ok(sh(mnt, f"cat > proc/spawn <<E && readlink proc/.last\n{ECHO}\nE\n")))

    assert wait(mnt, pid) == f"{pid} 0 done"


def test_a_spec_of_300_kb_arrives_whole(mnt: Path, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({"model": "offline/echo", "task": "word " * 60_000}))

    pid = int(ok(sh(mnt, 'cat "$1" > proc/spawn; readlink proc/.last', file)))

    assert wait(mnt, pid) == f"{pid} 0 done"
    assert len(read(mnt, pid, "result")) in (300_000, 300_001)


@pytest.mark.parametrize("program", ["cp", "tee", "dd"])
def test_programs_that_copy_spawn(mnt: Path, tmp_path: Path, program: str) -> None:
    file = tmp_path / "agent.md"
    file.write_text(AGENT)
    scripts = {
        "cp": 'cp "$1" proc/spawn',
        "tee": 'tee proc/spawn < "$1" > /dev/null',
        "dd": 'dd if="$1" of=proc/spawn bs=7 conv=notrunc status=none',
    }

    pid = int(ok(sh(mnt, f"{scripts[program]} && readlink proc/.last", file)))

    assert wait(mnt, pid) == f"{pid} 0 done"


@pytest.mark.parametrize("mode", ["w", "a", "r+"])
def test_python_spawns(mnt: Path, mode: str) -> None:
    before = pids(mnt)

    with open(mnt / "proc/spawn", mode) as file:
        file.write(ECHO)

    (pid,) = pids(mnt) - before
    assert wait(mnt, pid) == f"{pid} 0 done"


def test_python_reads_the_pid_of_an_unbuffered_handle(mnt: Path) -> None:
    with open(mnt / "proc/spawn", "r+b", buffering=0) as file:
        file.write(ECHO.encode())
        pid = int(file.read())

    assert wait(mnt, pid) == f"{pid} 0 done"


def test_a_spec_in_single_bytes_is_one_agent(mnt: Path) -> None:
    before = pids(mnt)

    with opened(mnt / "proc/spawn") as fd:
        for byte in ECHO.encode():
            os.write(fd, bytes([byte]))
        pid = int(reply(fd))

    assert pids(mnt) - before == {pid}


def test_two_shells_at_once_never_mix_up_last(mnt: Path) -> None:
    script = (
        "for i in 1 2 3 4 5 6; do exec 3<>proc/spawn; "
        'echo "{\\"model\\":\\"offline/echo\\",\\"task\\":\\"$1-$i\\"}" >&3; read -r pid <&3; '
        'echo "$pid $(readlink proc/.last)"; cat proc/.last/wait proc/.last/result; done'
    )

    with running(mnt, "bash", "-c", script, "bash", "a") as one:  # noqa: SIM117
        with running(mnt, "bash", "-c", script, "bash", "b") as two:
            said = {"a": one.communicate(timeout=30)[0], "b": two.communicate(timeout=30)[0]}

    for name, text in said.items():
        lines = text.splitlines()
        assert len(lines) == 18, text
        for number, (both, waited, result) in enumerate(zip(*[iter(lines)] * 3, strict=True), 1):
            pid, last = both.split()
            assert (pid, waited, result) == (last, f"{pid} 0 done", f"{name}-{number}")


def test_last_is_absent_where_nothing_was_spawned(mnt: Path) -> None:
    spawn(mnt, task="by another session")

    done = sh(mnt, "readlink proc/.last; ls -A proc")

    assert ".last" not in done.stdout.split()


def test_a_fresh_read_is_the_schema_of_a_spec(mnt: Path) -> None:
    schema = json.loads((mnt / "proc/spawn").read_text())

    assert {"model", "task", "tools"} <= schema["properties"].keys()


def test_a_spawned_spec_can_be_spawned_again(mnt: Path) -> None:
    pid = spawn(mnt, task="again", labels={"a": "b"}, tools=["grep"], max_turns=3)

    second = int(ok(sh(mnt, f"cat proc/{pid}/spec > proc/spawn && readlink proc/.last")))

    assert read(mnt, second, "spec") == read(mnt, pid, "spec")


# -- requests that are refused

BAD = {
    "{bad": "JSON",
    '{"modle":"x"}': "'model'",
    '{"model":7}': "$.model",
    '{"model":"offline/echo","tools":["grepp"]}': "'grep'",
    '{"model":"offline/echo","mode":"chatty"}': "$.mode",
    "[1]": "[1]",
    "nobody do this": "nobody",
    '{"model":"nonsense"}': "provider/model",
    '{"model":"offline/ecko"}': "offline/echo",
    '{"model":"offline/echo","model_settings":{"api_key":"sk-1"}}': "environment",
}


@every_shell
@pytest.mark.parametrize("text", ["{bad", '{"modle":"x"}', "nobody do this"])
def test_a_bad_spec_fails_the_echo_and_leaves_no_process(mnt: Path, shell: str, text: str) -> None:
    before = pids(mnt)

    done = sh(mnt, 'echo "$1" > proc/spawn', text, shell=shell)

    assert done.returncode != 0 and done.stderr
    assert pids(mnt) == before


@pytest.mark.parametrize(("text", "hint"), BAD.items())
def test_a_bad_spec_is_explained_by_the_handle_and_the_error_log(
    mnt: Path, text: str, hint: str
) -> None:
    before = pids(mnt)

    failed, said = request(mnt / "proc/spawn", f"{text}\n".encode())

    last = errors(mnt)[-1]
    assert failed in ("EINVAL", "ENOENT")
    assert hint in said and said.count("\n") == 1
    assert last.keys() == {"time", "path", "op", "errno", "message"}
    assert (last["path"], last["op"], last["message"]) == ("/proc/spawn", "write", said.strip())
    assert pids(mnt) == before


@every_shell
def test_the_handle_of_a_failed_echo_says_why(mnt: Path, shell: str) -> None:
    script = 'exec 3<>proc/spawn; echo \'{"modle":"x"}\' >&3 && echo it worked; cat <&3'

    done = sh(mnt, script, shell=shell)

    assert "did you mean 'model'?" in done.stdout and "it worked" not in done.stdout


@every_shell
def test_a_bad_argument_fails_the_echo_to_a_tool(mnt: Path, shell: str) -> None:
    script = "exec 3<>dispatch/read_file; echo '{\"path\":7}' >&3 && echo it worked; cat <&3"

    done = sh(mnt, script, shell=shell)

    said = json.loads(done.stdout)
    assert "$.path" in said["error"] and "string" in said["error"] and not said["success"]
    assert errors(mnt)[-1]["path"] == "/dispatch/read_file"


def test_a_bad_markdown_spec_fails_cp_and_cat(mnt: Path, tmp_path: Path) -> None:
    file = tmp_path / "agent.md"
    file.write_text("---\nmodle: offline/echo\n---\nYou write.\n")
    before = pids(mnt)

    by_cp, by_cat = sh(mnt, 'cp "$1" proc/spawn', file), sh(mnt, 'cat "$1" > proc/spawn', file)

    assert by_cp.returncode != 0 and by_cat.returncode != 0
    assert "'model'" in errors(mnt)[-1]["message"]
    assert pids(mnt) == before


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [("draft", "EACCES", "chmod +x"), ("letter", "ENOEXEC", "---"), ("absent", "ENOENT", "/bin")],
)
@pytest.mark.parametrize("form", ["{}\n", '{{"agent": "{}"}}'])
def test_what_is_not_an_installed_agent_is_refused(
    mnt: Path, installed: Path, name: str, code: str, hint: str, form: str
) -> None:
    before = pids(mnt)

    failed, said = request(mnt / "proc/spawn", form.format(name).encode())

    assert failed == code
    assert name in said and hint in said
    assert pids(mnt) == before


@pytest.mark.parametrize(
    "text", [ECHO + ECHO, f"{ECHO}\n{ECHO}\n", ECHO + "x", f"{ECHO}\nlooker hello\n"]
)
def test_more_than_one_object_in_a_write_is_einval_and_nothing_acts(mnt: Path, text: str) -> None:
    before = pids(mnt)

    failed, said = request(mnt / "proc/spawn", text.encode())

    assert failed == "EINVAL"
    assert "one object" in said
    assert pids(mnt) == before


def test_a_request_over_4_mib_is_efbig_and_nothing_acts(mnt: Path) -> None:
    before = pids(mnt)
    piece = b"x" * (1 << 16)

    with opened(mnt / "proc/spawn") as fd:
        os.write(fd, b'{"model":"offline/echo","task":"')
        with pytest.raises(OSError, match="File too large"):
            for _ in range(65):
                os.write(fd, piece)
        said = reply(fd).decode()

    assert "file" in said
    assert pids(mnt) == before


def test_a_large_write_that_is_too_big_is_efbig_to_its_writer(mnt: Path) -> None:
    before = pids(mnt)
    spec = json.dumps({"model": "offline/echo", "task": "x" * (5 << 20)}).encode()

    with pytest.raises(OSError, match="File too large"), open(mnt / "proc/spawn", "wb") as file:
        file.write(spec)

    assert errors(mnt)[-1]["errno"] == errno.EFBIG
    assert pids(mnt) == before


def test_a_handle_goes_on_after_a_failed_request(mnt: Path) -> None:
    with opened(mnt / "proc/spawn") as fd:
        with pytest.raises(OSError, match="Invalid argument"):
            os.write(fd, b"{bad\n")
        os.write(fd, f"{ECHO}\n".encode())
        pid = int(reply(fd))

    assert wait(mnt, pid) == f"{pid} 0 done"


def test_half_an_object_does_nothing_at_close(mnt: Path) -> None:
    before = pids(mnt)

    done = sh(mnt, "printf '{\"model\":' | cat > proc/spawn")

    assert done.returncode != 0
    assert pids(mnt) == before


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('{"model":"offline/echo","task":"a","task":"b"}', "task"),
        ('{"task":"\\u0000"}', "NUL"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "deep"),
        ('{"max_turns":' + "9" * 5000 + "}", "number"),
        ('{"task":NaN}', "NaN"),
    ],
    ids=["twice", "nul", "deep", "huge", "nan"],
)
def test_hostile_json_is_einval(mnt: Path, text: str, hint: str) -> None:
    failed, said = request(mnt / "proc/spawn", text.encode())

    assert failed == "EINVAL"
    assert hint in said


def test_invalid_utf_8_is_einval(mnt: Path) -> None:
    failed, said = request(mnt / "proc/spawn", b'{"task":"\xff"}')

    assert failed == "EINVAL"
    assert "UTF-8" in said


def test_a_path_below_the_mount_point_as_the_shell_sees_it_is_explained(mnt: Path) -> None:
    failed, said = request(mnt / "dispatch/read_file", {"path": str(mnt / "README")})

    assert failed == "EREMOTEIO"
    assert "/README" in json.loads(said)["error"].replace(str(mnt / "README"), "")


def test_the_pid_comes_before_any_model_is_loaded(mnt: Path) -> None:
    pid = spawn(
        mnt, model="openai/any", task="x", model_settings={"api_base": "http://127.0.0.1:9"}
    )

    status = read(mnt, pid, "status")
    end(mnt, pid)

    assert "R (running)" in status


def test_a_process_that_spawns_through_python_and_exits_leaves_its_agent(mnt: Path) -> None:
    program = f"open('proc/spawn', 'w').write({ECHO!r})"
    before = pids(mnt)

    subprocess.run([sys.executable, "-c", program], cwd=mnt, check=True)

    (pid,) = pids(mnt) - before
    assert wait(mnt, pid) == f"{pid} 0 done"
