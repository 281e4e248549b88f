"""The attack list against rights: what an agent tries, by a program and by its tools."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.programs import run, tried
from tests.fuse.sandbox.boxes import Held
from tests.fuse.shell import (
    call,
    end,
    errno_of,
    events,
    idle,
    pids,
    play,
    read,
    request,
    until,
    wait,
)

pytestmark = pytest.mark.fuse

ABSENT = {"bwrap": {"ENOENT"}, "landlock": {"EACCES"}}
"""What is not granted: not there, or there and closed."""
FIXED = {"bwrap": {"EROFS", "EXDEV"}, "landlock": {"EACCES", "EXDEV"}}
"""What may only be read; a name of another mount is EXDEV before anything else."""
REFUSED = {"EPERM", "EACCES"}


@pytest.fixture(scope="module")
def tree(box: Held) -> Path:
    """What there is, made by a person."""
    top = box.mnt
    for name in ("open/sub", "fixed", "secret"):
        (top / name).mkdir(parents=True)
    for name in ("open/a", "fixed/f", "secret/s"):
        (top / name).write_text("secret" if name == "secret/s" else "text")
    (top / "open/out").symlink_to("../secret")
    (top / "open/file").symlink_to("/secret/s")
    (top / "secret/back").symlink_to("../open/a")
    return top


@pytest.fixture
def bound(box: Held, tree: Path) -> Iterator[int]:
    """An agent of root's with two paths."""
    paths = [{"path": "/open"}, {"path": "/fixed", "access": "r"}]
    pid = idle(tree, paths=paths, limits={"tokens": 1000})
    yield pid
    end(tree, pid)


def attempts(box: Held, agent: int, *lines: str) -> dict[str, str]:
    """Each line of Python as a program of the agent does it: the errno's name, empty if it did."""
    top = "" if box.kind == "bwrap" else str(box.mnt)
    script = (
        "import errno, json, os\n"
        f"top, nexus = {top!r}, {box.inside!r}\n"
        "def write(path, text):\n"
        "    fd = os.open(path, os.O_WRONLY)\n"
        "    try: os.write(fd, text.encode())\n"
        "    finally: os.close(fd)\n"
        "said = {}\n"
        f"for line in {list(lines)!r}:\n"
        "    try: exec(line); said[line] = ''\n"
        "    except OSError as exc: said[line] = errno.errorcode[exc.errno]\n"
        "print(json.dumps(said))\n"
    )
    found: dict[str, str] = json.loads(run(box.mnt, script, "python", agent=agent).splitlines()[0])
    return found


def tool(mnt: Path, agent: int, name: str, **arguments: str) -> tuple[str, str]:
    """("" or the errno's name, the output or the error) of a tool of an agent."""
    failed, text = request(mnt / f"proc/{agent}/dispatch/{name}", arguments)
    reply = json.loads(text)
    return failed, str(reply["error"] or reply["output"])


# Paths


def test_a_program_has_what_its_agents_paths_grant(box: Held, bound: int) -> None:
    said = attempts(
        box, bound, "open(top + '/open/a').read()", "open(top + '/open/new', 'w').write('x')",
        "open(top + '/fixed/f').read()", "os.mkdir(top + '/open/d')",
    )  # fmt: skip

    assert set(said.values()) == {""}


@pytest.mark.parametrize(
    "path",
    ["/secret/s", "//secret//s", "/open/../secret/s", "/open/sub/../../secret/s", "/open/file",
     "/open/out/s", "/open/out/back", "/fixed/../secret/s"],
)  # fmt: skip
def test_a_program_reaches_nothing_else(box: Held, bound: int, path: str) -> None:
    said = attempts(box, bound, f"open(top + {path!r}).read()", f"open(top + {path!r}, 'a')")

    assert set(said.values()) <= ABSENT[box.kind] | {"ENOENT"}


@pytest.mark.parametrize(
    "path",
    ["/secret/s", "//secret//s", "/open/../secret/s", "/open/sub/../../secret/s", "/open/file",
     "/open/out/s", "/open/out/back", "/nexus/secret/s", "../secret/s"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["read_file", "write_file"])
def test_a_tool_reaches_nothing_else(tree: Path, bound: int, name: str, path: str) -> None:
    more = {"content": "mine"} if name == "write_file" else {}

    failed, said = tool(tree, bound, name, path=path, **more)

    assert failed == "EREMOTEIO" and "its rights do not let the agent" in said
    assert (tree / "secret/s").read_text() == "secret"


@pytest.mark.parametrize("name", ["list_dir", "glob", "grep"])
def test_a_tool_lists_and_searches_nothing_else(tree: Path, bound: int, name: str) -> None:
    more = {} if name == "list_dir" else {"pattern": "secret" if name == "grep" else "*"}

    for path in ("/secret", "/open/out", "/"):
        failed, said = tool(tree, bound, name, path=path, **more)
        assert failed == "EREMOTEIO" and "its rights" in said


def test_what_may_only_be_read_is_not_written(box: Held, tree: Path, bound: int) -> None:
    said = attempts(
        box, bound, "open(top + '/fixed/f', 'w')", "open(top + '/fixed/new', 'w')",
        "os.unlink(top + '/fixed/f')", "os.rename(top + '/fixed/f', top + '/open/f')",
        "os.chmod(top + '/fixed/f', 0o777) if not top else open(top + '/fixed/f', 'a')",
        "os.link(top + '/fixed/f', top + '/open/l')",
    )  # fmt: skip

    assert set(said.values()) <= FIXED[box.kind] | {"EPERM"}
    failed, _ = tool(tree, bound, "write_file", path="/fixed/f", content="mine")
    assert failed == "EREMOTEIO" and (tree / "fixed/f").read_text() == "text"


def test_no_link_is_made_into_a_tree_that_is_forbidden(box: Held, tree: Path, bound: int) -> None:
    said = attempts(
        box, bound, "os.link(top + '/secret/s', top + '/open/hard')",
        "os.link(top + '/open/a', top + '/secret/hard')",
        "os.rename(top + '/open/a', top + '/secret/a')",
    )  # fmt: skip

    assert set(said.values()) <= ABSENT[box.kind] | {"ENOENT", "EXDEV"}
    assert not (tree / "open/hard").exists() and not (tree / "secret/hard").exists()


@contextmanager
def juggled(link: Path, *targets: str) -> Iterator[None]:
    """A symlink that leads elsewhere all the time."""
    stop = threading.Event()

    def juggle() -> None:
        fresh = link.with_name(f"{link.name}.new")
        while not stop.is_set():
            for target in targets:
                fresh.symlink_to(target)
                os.replace(fresh, link)

    thread = threading.Thread(target=juggle)
    thread.start()
    try:
        until(link.is_symlink)
        yield
    finally:
        stop.set()
        thread.join()


def test_a_symlink_that_is_swapped_between_check_and_use_shows_nothing(
    tree: Path, bound: int
) -> None:
    with juggled(tree / "open/swap", "a", "../secret/s"):
        said = {tool(tree, bound, "read_file", path="/open/swap") for _ in range(100)}

    assert any("text" in text for _, text in said)
    assert all("secret" not in text for failed, text in said if not failed)


@pytest.mark.parametrize(
    ("path", "failed"),
    [
        ("/open/" + "n" * 255, ""),
        ("/open/" + "n" * 256, "EREMOTEIO"),
        ("/open/" + "é" * 128, "EREMOTEIO"),
        ("/open/" + "d/" * 2100, "EREMOTEIO"),
        ("/open/a\0/../../secret/s", "EINVAL"),
        ("/open/\udcff", "EINVAL"),
    ],
)
def test_a_name_at_its_limits_is_a_name_or_refused(
    tree: Path, bound: int, path: str, failed: str
) -> None:
    assert tool(tree, bound, "write_file", path=path, content="x")[0] == failed


def test_a_name_that_is_no_utf_8_is_a_name_like_any_other(box: Held, bound: int) -> None:
    said = attempts(
        box, bound, r"os.open(os.fsencode(top) + b'/open/\xff\xfe', os.O_CREAT)",
        r"os.open(os.fsencode(top) + b'/secret/\xff', os.O_CREAT)",
    )  # fmt: skip

    first, second = said.values()
    assert first == "" and second in ABSENT[box.kind]


def test_a_cut_ends_the_programs_that_had_more(box: Held, tree: Path, bound: int) -> None:
    fd = os.open(tree / f"proc/{bound}/dispatch/exec", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b'{"command": "echo begun; sleep 1000"}')
    until(lambda: "sandboxes 1" in (tree / "sys/sessions").read_text())

    cut = {"paths": [{"path": "/fixed", "access": "r"}]}
    failed, _ = request(tree / f"proc/{bound}/grants", cut)

    until(lambda: "sandboxes 0" in (tree / "sys/sessions").read_text())
    os.close(fd)
    assert not failed
    assert set(attempts(box, bound, "open(top + '/open/a')").values()) <= ABSENT[box.kind]


# Tools


def test_a_hidden_tool_is_not_there_by_name_nor_by_a_crafted_call(
    box: Held, tree: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    turns = call("write_file", path="/open/mine", content="x"), {"content": "done"}
    pid = play(tree, script, *turns, tools=["python", "read_file"], mode="chat")
    until(lambda: any(event["type"] == "tool_result" for event in events(tree, pid)))

    said = attempts(
        box, pid, "write(nexus + '/dispatch/write_file', '{}')",
        f"write(nexus + '/proc/{pid}/dispatch/write_file', '{{}}')",
        "open(nexus + '/dispatch/write_file').read()",
        "os.stat(nexus + '/dispatch/write_file')",
    )  # fmt: skip

    assert set(said.values()) == {"ENOENT"}
    result = next(one for one in events(tree, pid) if one["type"] == "tool_result")
    assert result["error"].startswith("no tool 'write_file'")
    assert not (tree / "open/mine").exists()
    log = (tree / "var/log/audit.jsonl").read_text().splitlines()
    denied = [json.loads(line) for line in log if "denied: write_file" in line]
    assert denied and {(line["pid"], line["event"]) for line in denied} == {(pid, "refused")}
    assert "write_file" not in os.listdir(tree / f"proc/{pid}/dispatch")
    end(tree, pid)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": ["exec", "write_file"]},
        {"paths": [{"path": "/secret"}]},
        {"paths": [{"path": "/fixed"}]},
        {"limits": {"tokens": 1001}},
        {"limits": {"unknown_price": "allow"}},
        {"delegate": {"tools": ["exec"]}},
        {"zone": "other"},
    ],
)
def test_a_child_that_asks_for_more_is_refused(
    box: Held, tree: Path, more: dict[str, object]
) -> None:
    pid = idle(
        tree, tools=["python", "read_file"], limits={"tokens": 1000, "unknown_price": "refuse"},
        paths=[{"path": "/open"}, {"path": "/fixed", "access": "r"}],
    )  # fmt: skip
    before = pids(tree)
    spec = json.dumps({"model": "offline/echo", **more})

    said = attempts(box, pid, f"write(nexus + '/proc/spawn', {spec!r})")

    assert set(said.values()) == {"EPERM"} and pids(tree) == before
    end(tree, pid)


# Control files


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_an_agent_changes_neither_its_own_control_files_nor_anothers(
    box: Held, tree: Path, bound: int, other: int, whose: str
) -> None:
    pid = bound if whose == "its own" else other
    before = read(tree, pid, "limits/tokens"), read(tree, pid, "grants")
    words = {
        "ctl": "kill\n", "stdin": "hello\n", "limits/tokens": "max\n", "limits/turns": "1\n",
        "grants": '{"tools": []}',
    }  # fmt: skip

    said = attempts(
        box, bound,
        *(f"write(nexus + '/proc/{pid}/{name}', {text!r})" for name, text in words.items()),
    )  # fmt: skip

    assert set(said.values()) == {"EPERM"}
    assert (read(tree, pid, "limits/tokens"), read(tree, pid, "grants")) == before
    assert "R (running)" in read(tree, pid, "status")


def test_an_agent_does_not_approve_its_own_question(box: Held, tree: Path) -> None:
    pid = idle(tree, rules={"ask": ["write_file"]})
    fd = os.open(tree / f"proc/{pid}/dispatch/write_file", os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b'{"path": "/open/asked", "content": "x"}')
    until(lambda: read(tree, pid, "wchan") == "approval\n")

    said = attempts(
        box, pid, f"write(nexus + '/proc/{pid}/approvals/1', 'approve\\n')",
        f"write(nexus + '/proc/1/approvals/{pid}.1', 'approve\\n')",
    )  # fmt: skip

    assert list(said.values()) == ["EPERM", "ENOENT"]
    assert not (tree / "open/asked").exists()
    (tree / f"proc/1/approvals/{pid}.1").write_text("approve\n")
    until((tree / "open/asked").exists)
    os.close(fd)
    (tree / "open/asked").unlink()
    end(tree, pid)


def test_an_agent_edits_neither_rules_nor_agents(box: Held, tree: Path, agent: int) -> None:
    (tree / "etc/rules").write_text("the person's")
    said = attempts(
        box, agent, "open(nexus + '/etc/rules', 'w')", "open(nexus + '/etc/policy.json', 'w')",
        "open(nexus + '/bin/mine.md', 'w')", "os.unlink(nexus + '/bin/assistant.md')",
        "os.rename(nexus + '/etc', nexus + '/etc2')", "os.rename(nexus + '/bin', nexus + '/b')",
    )  # fmt: skip

    assert set(said.values()) <= {"EROFS", "EACCES", "EBUSY", "EXDEV"}
    for path in ("/etc/rules", "/etc/policy.json", "/bin/mine.md", "/bin/assistant.md"):
        failed, text = tool(tree, agent, "write_file", path=path, content="mine")
        assert failed == "EREMOTEIO" and "its rights do not let" in text
    assert (tree / "etc/rules").read_text() == "the person's"
    assert not (tree / "etc/policy.json").exists() and "mine.md" not in os.listdir(tree / "bin")


def test_a_denied_program_does_not_run(tree: Path) -> None:
    pid = idle(tree, rules={"deny": ["exec(*forbidden*)"]})

    failed, reply = tried(tree, "echo forbidden > /open/forbidden", agent=pid)

    assert failed == "EACCES" and "deny exec(*forbidden*)" in reply["error"]
    assert errno_of(os.stat, tree / "open/forbidden") == "ENOENT"
    end(tree, pid)


def test_a_limit_ends_an_agent_that_goes_on_and_on(tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(json.dumps({"turns": [call("list_dir", path="/open")], "repeat": True}))
    failed, text = request(
        tree / "proc/spawn",
        {"model": f"offline/script:{script}", "task": "go", "limits": {"tool_calls": 3}},
    )

    assert not failed
    assert wait(tree, int(text)) == f"{int(text)} 3 tool_calls (3) of agent {int(text)} reached"
