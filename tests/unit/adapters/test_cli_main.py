"""The command as a whole, on a directory of plain files."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from nexusfs.__main__ import COMMANDS, cli, main

MINE = [name for name, (target, _) in COMMANDS.items() if target.startswith("nexusfs.adapters.cli")]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_ps_off_a_terminal_is_tab_separated(
    tree: Path, add_process: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    add_process(2, Model="offline/demo", Wchan="tool:grep")

    assert run("ps", "--mnt", str(tree)) == 0
    heading, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(heading.split("\t"), row.split("\t"), strict=True))
    assert (cells["PID"], cells["MODEL"], cells["WAITS"]) == ("2", "offline/demo", "tool:grep")


def test_ps_live_leaves_out_what_has_ended(
    tree: Path, add_process: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    add_process(2)
    add_process(3, State="X (stopped)")

    assert run("ps", "--live", "--mnt", str(tree)) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["PID", "2"]


def test_ps_json_is_one_object_a_line(
    tree: Path, add_process: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    add_process(2)
    add_process(3)

    assert run("ps", "--json", "--mnt", str(tree)) == 0
    assert capsys.readouterr().out == '{"pid": 2}\n{"pid": 3}\n'


def test_the_environment_names_the_mount(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUSFS_MNT", str(tree))

    assert run("call") == 0
    assert capsys.readouterr().out == "grep\n"


def test_tree_of_one_process_shows_it_and_its_children(
    tree: Path, add_process: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    add_process(2)
    add_process(3, ppid=2)
    add_process(4)

    assert run("tree", "2", "--mnt", str(tree)) == 0
    assert capsys.readouterr().out == "2 a2 R (running)\n└─ 3 a3 R (running)\n"


def test_wait_exits_as_the_first_that_failed(
    tree: Path, add_process: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for pid, line in ((2, "2 0 done"), (3, "3 -15 stop it"), (4, "4 1 failed")):
        add_process(pid)
        (tree / f"proc/{pid}/wait").write_text(line + "\n")

    assert run("wait", "2", "3", "4", "--mnt", str(tree)) == 143
    assert capsys.readouterr().out == "2 0 done\n3 -15 stop it\n4 1 failed\n"


def test_logs_prints_what_was_said(
    tree: Path, add_process: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    add_process(2)
    (tree / "proc/2/stdout").write_text("hello\n")

    assert run("logs", "2", "--mnt", str(tree)) == 0
    assert capfd.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["ps", "--mnt", "/nowhere"], 1),
        (["run", "--mnt", "/nowhere", "x"], 125),
        (["kil", "2"], 2),
        (["kill"], 2),
        (["kill", "x"], 2),
        (["ps", "--no-such-option"], 2),
    ],
)
def test_every_error_is_one_line(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("nexusfs: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("name", MINE)
def test_help_shows_examples_and_the_line_of_the_list(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0

    shown = capsys.readouterr().out
    assert f"nexusfs {name} [OPTIONS]" in shown
    assert f"  nexusfs {name}" in shown.partition("Examples:")[2] or name == "completion"


def test_the_list_of_commands_is_shown_without_importing_any() -> None:
    code = (
        "import sys; from nexusfs.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = done.stdout.splitlines()[-1].split()
    targets = {target.partition(":")[0] for target, _ in COMMANDS.values()}
    assert not targets & set(loaded)


def test_client_commands_load_neither_kernel_nor_anything_heavy() -> None:
    modules = {COMMANDS[name][0].partition(":")[0] for name in MINE}
    code = f"import sys, {', '.join(sorted(modules))}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    heavy = {"nexusfs.kernel", "nexusfs.contracts", "trio", "pydantic", "rich", "asyncio"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("completion", shell) == 0
    assert "_NEXUSFS_COMPLETE" in capsys.readouterr().out


def complete(words: str, tree: Path) -> list[str]:
    *before, incomplete = words.split(" ")
    assert isinstance(cli, click.Group)
    found = BashComplete(cli, {}, "nexusfs", "_X").get_completions(
        [*before[:1], "--mnt", str(tree), *before[1:]] if before else [], incomplete
    )
    return [item.value for item in found]


def test_pids_agents_tools_and_verbs_complete_from_the_mount(
    tree: Path, add_process: Callable[..., None]
) -> None:
    add_process(2)
    add_process(21)

    assert complete("sp", tree) == ["spawn"]
    assert complete("kill 2", tree) == ["2", "21"]
    assert complete("spawn rev", tree) == ["reviewer"]
    assert complete("call g", tree) == ["grep"]
    assert complete("kill -s t", tree) == ["term"]


def test_a_reader_that_goes_away_causes_no_traceback(tree: Path) -> None:
    for pid in range(2, 600):
        (tree / "proc" / str(pid)).mkdir()
        (tree / f"proc/{pid}/status").write_text(f"Pid:\t{pid}\nName:\t{'x' * 200}\n")
    line = f"{sys.executable} -m nexusfs ps --mnt {tree} | head -n 1"

    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("PID\t")
    assert done.stderr == ""
