"""docs/tree.md against the running kernel: each has what the other has."""

import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices

from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.config import Config, ToolLimits
from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.agent import LATER_FIELDS, AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.nesting import MAX_DEPTH
from nexusfs.contracts.node import Change
from nexusfs.contracts.proc import ProcState
from nexusfs.contracts.task import TaskState, request_schema
from nexusfs.contracts.tool import ToolResult
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.requests import REQUEST_LIMIT_BYTES
from nexusfs.kernel.strict_json import MAX_VALUES
from tests.kernel_fixture import ROOT, spec, until

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs" / "tree.md").read_text()
SOURCE = "\n".join(path.read_text() for path in (TOP / "nexusfs").rglob("*.py"))
KINDS = {stat.S_IFREG: "", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}

Rows = dict[str, list[str]]
Files = dict[str, tuple[str, int]]


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert found, f"docs/tree.md has no section {title!r}"
    return found[1]


def rows(title: str, table: int = 0) -> Rows:
    """First cell, without its backquotes, to the other cells of a section's table."""
    tables = re.findall(r"^\|-.*\n((?:\|.*\n)+)", section(title), re.M)
    cells = [
        [c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in tables[table].splitlines()
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def words(text: str) -> list[str]:
    """What is in backquotes."""
    return re.findall(r"`([^`]+)`", text)


def listed(title: str) -> Files:
    """The files of a section: name to (kind, permission bits)."""
    files = {}
    for name, (mode, *_) in rows(title).items():
        kind = "link" if mode.startswith("link") else "dir" if name.endswith("/") else ""
        bits = re.search(r"0\d{3}", mode)
        files[name.rstrip("/")] = (kind, int(bits[0], 8) if bits else 0o777)
    return files


async def there(bound: BoundSyscalls, directory: str) -> Files:
    """The files that a directory really has."""
    files = {}
    for entry in await bound.list_dir(directory):
        st = await bound.stat(f"{directory}/{entry.name.decode()}", follow=False)
        files[entry.name.decode()] = (KINDS[stat.S_IFMT(st.mode)], stat.S_IMODE(st.mode))
    return files


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    options = BootOptions(tmp_path / "store", Config.model_validate({}), tmp_path / "config.toml")
    async with running_kernel(options) as kernel:
        yield kernel


@pytest.fixture
def bound(kernel: Kernel) -> BoundSyscalls:
    return BoundSyscalls(kernel.syscalls, ROOT)


@pytest.fixture
async def agent(kernel: Kernel, bound: BoundSyscalls) -> str:
    """The directory of an installed agent that has ended."""
    info = await bound.sys_proc_spawn(
        spec(agent="assistant", model="offline/echo", task="hello", tools=[])
    )
    await bound.sys_proc_wait(info.pid)
    return f"/proc/{info.pid}"


# Files


async def test_proc_has_what_the_page_lists(kernel: Kernel, agent: str) -> None:
    pid = int(agent.rpartition("/")[2])
    people, itself = ROOT, Credentials(0, 0, agent_pid=pid)

    found: Files = {}
    for cred in (people, itself):
        found |= await there(BoundSyscalls(kernel.syscalls, cred), "/proc")

    found["<pid>"] = found.pop(str(pid))
    assert found == listed("/proc")


async def test_self_is_absent_for_people(bound: BoundSyscalls) -> None:
    assert "self" not in await there(bound, "/proc")


async def test_pid_1_has_what_the_page_says(bound: BoundSyscalls) -> None:
    _, what = rows("/proc")["1/"]

    assert set(await there(bound, "/proc/1")) == set(words(what))


async def test_an_agents_directory_has_what_the_page_lists(
    bound: BoundSyscalls, agent: str
) -> None:
    assert await there(bound, agent) == listed("/proc/&lt;pid&gt;")


@pytest.mark.parametrize(
    ("title", "name", "place"),
    [("/proc/&lt;pid&gt;", "dispatch/", "dispatch"), ("/dispatch", ".calls/", "/dispatch/.calls")],
)
async def test_the_files_below_have_the_mode_that_the_page_says(
    bound: BoundSyscalls, title: str, name: str, place: str
) -> None:
    info = await bound.sys_proc_spawn(spec(model="offline/echo", mode="chat"))
    await bound.write_file("/dispatch/list_dir", b"{}")
    _, what = rows(title)[name]
    mode = re.search(r"(0\d{3}) each", what)
    assert mode

    files = await there(bound, place if place[0] == "/" else f"/proc/{info.pid}/{place}")

    assert {found for _, found in files.values()} == {int(mode[1], 8)}


@pytest.fixture
async def task(bound: BoundSyscalls) -> str:
    """The directory of a task of the kernel that has ended."""
    worker = {"model": "offline/echo", "tools": []}
    info = await bound.sys_task_delegate({"message": "hello", "worker": worker})
    await bound.sys_task_collect([info.task_id])
    return f"/proc/1/tasks/{info.task_id}"


async def test_a_task_has_what_the_page_lists(bound: BoundSyscalls, task: str) -> None:
    assert await there(bound, task) == listed("Files of a task")


async def test_the_verbs_of_a_task_are_those_of_the_page(bound: BoundSyscalls, task: str) -> None:
    paragraph = re.search(r"^Verbs: (.*?)\n\n", section("Files of a task"), re.S | re.M)
    assert paragraph

    named = {word.split()[0] for word in words(paragraph[1])}
    verbs = set((await bound.read_file(f"{task}/ctl")).decode().split())
    assert verbs <= named
    assert named - verbs == {"delegate", "reap", "version"}


def test_the_states_of_a_task_are_those_of_the_page() -> None:
    states = re.search(r"^States: (.*?)\. A task", section("Tasks"), re.S | re.M)
    assert states

    assert words(states[1]) == [str(state) for state in TaskState]


def test_the_keys_of_a_delegation_are_those_of_the_page() -> None:
    assert set(rows("Tasks")) == set(request_schema()["properties"]) - {"message", "worker"}


async def test_exe_is_absent_for_an_agent_of_an_inline_spec(bound: BoundSyscalls) -> None:
    info = await bound.sys_proc_spawn(spec(model="offline/echo", task="hello"))

    assert "exe" not in await there(bound, f"/proc/{info.pid}")


async def test_those_that_everybody_reads_are_the_ones_the_page_names(
    bound: BoundSyscalls, agent: str
) -> None:
    sentence = re.search(r"Everybody reads(.*?);", section("/proc/&lt;pid&gt;"), re.S)
    assert sentence

    found = {name for name, (_, mode) in (await there(bound, agent)).items() if mode & 0o004}

    assert found == set(words(sentence[1]))


async def test_dispatch_has_what_the_page_lists(bound: BoundSyscalls) -> None:
    await bound.write_file("/dispatch/list_dir", b"{}")

    found = await there(bound, "/dispatch")

    tools = {found.pop(name) for name in rows("/dispatch", 1)}
    assert tools == {listed("/dispatch")["<tool>"]}
    assert found == {name: kind for name, kind in listed("/dispatch").items() if name[0] == "."}


async def test_sys_has_what_the_page_lists(bound: BoundSyscalls) -> None:
    assert await there(bound, "/sys") == listed("/sys")


async def test_services_are_those_that_the_page_names(bound: BoundSyscalls) -> None:
    _, what = rows("/sys")["services/"]
    named = set(what.rpartition(":")[2].strip(" .").split(", "))

    assert set(await there(bound, "/sys/services")) == named


# What the files say


async def test_ctl_takes_the_verbs_of_the_page(bound: BoundSyscalls, agent: str) -> None:
    verbs = [verb.split()[0] for verb in rows("Verbs of `ctl`")]

    assert (await bound.read_file(f"{agent}/ctl")).decode().split() == verbs


async def test_usage_has_the_keys_of_the_page(bound: BoundSyscalls, agent: str) -> None:
    _, what = rows("/proc/&lt;pid&gt;")["usage"]
    keys = what.rpartition(":")[2].strip(" .").split(", ")

    lines = (await bound.read_file(f"{agent}/usage")).decode().splitlines()
    found = [line.split()[0] for line in lines]
    assert [key for key in found if not key.startswith("remaining.")] == keys


async def test_an_error_has_the_fields_of_the_page(bound: BoundSyscalls) -> None:
    _, what = rows("/sys")["error_log"]
    with pytest.raises(Exception, match="unknown key"):
        await bound.write_file("/dispatch/list_dir", b'{"pth": 1}')

    line = (await bound.read_file("/sys/error_log")).decode()

    assert re.findall(r'"(\w+)": ', line) == what.rpartition(":")[2].strip(" .").split(", ")


def test_the_states_are_those_of_the_page() -> None:
    states = re.search(r"^States: (.*?)\.", section("/proc/&lt;pid&gt;"), re.S | re.M)
    assert states

    assert set(words(states[1])) == {f"{state.letter} ({state})" for state in ProcState}


def test_the_wait_channels_are_those_of_the_code() -> None:
    _, what = rows("/proc/&lt;pid&gt;")["wchan"]
    code = {name.split("{")[0] for name in re.findall(r'waiting_for\(f?"([^"]+)"\)', SOURCE)}

    assert {name.split("<")[0] for name in words(what)} == code | {"0"}


def test_the_events_are_those_that_the_code_records() -> None:
    recorded = set(re.findall(r'\brecord\(\s*"(\w+)"', SOURCE))
    live = set(re.findall(r'\bshow\(\s*"(\w+)"', SOURCE))

    assert set(rows("Events")) == recorded | live


def test_the_reply_of_a_tool_has_the_fields_of_the_page() -> None:
    sentence = re.search(r"The reply is one JSON line: (.*?)\.", section("/dispatch"), re.S)
    assert sentence
    reply = ToolResult("c", "n", "", None, 0).to_json().decode()

    assert words(sentence[1]) == re.findall(r'"(\w+)": ', reply)


def test_the_limits_of_requests_are_those_of_the_code() -> None:
    sentence = re.search(r"\*\*Limits:\*\*(.*?)\n- ", section("Rules for all control files"), re.S)
    assert sentence

    for limit in (
        f"{REQUEST_LIMIT_BYTES >> 20} MiB",
        f"{MAX_DEPTH} levels",
        f"{MAX_VALUES:,} keys",
    ):
        assert limit in sentence[1]


def test_the_limits_of_tools_are_the_configurations_defaults() -> None:
    limits = ToolLimits.model_validate({})
    column = {name: cells[-1] for name, cells in rows("/dispatch", 1).items() if cells[-1]}

    assert column == {
        "read_file": f"{limits.read_chars:,} characters",
        "list_dir": f"{limits.list_entries} entries",
        "glob": f"{limits.list_entries} entries",
        "grep": f"{limits.grep_hits} hits of {limits.grep_chars} characters",
    }


# Specs


def aliases_of(name: str) -> set[str]:
    alias = AgentSpec.model_fields[name].validation_alias
    return {str(c) for c in alias.choices} - {name} if isinstance(alias, AliasChoices) else set()


def test_the_fields_of_a_spec_and_their_aliases_are_those_of_the_page() -> None:
    page = {name: set(words(cells[0])) for name, cells in rows("Specs").items()}

    assert page == {name: aliases_of(name) for name in AgentSpec.model_fields}


def test_the_default_of_max_turns_is_on_the_page() -> None:
    what = rows("Specs")["max_turns"][-1]

    assert what.startswith(f"{AgentSpec.model_fields['max_turns'].default}.")


def test_the_choices_of_fields_are_those_of_the_schema() -> None:
    properties: dict[str, Any] = AgentSpec.model_json_schema(by_alias=False)["properties"]

    for name, schema in properties.items():
        if "enum" in schema:
            assert set(schema["enum"]) <= set(words(rows("Specs")[name][-1])), name


def test_the_fields_of_later_are_those_of_the_page() -> None:
    sentence = re.search(r"refused with EOPNOTSUPP.*?:(.*?)\n\n", section("Specs"), re.S)
    assert sentence

    assert set(words(sentence[1])) == LATER_FIELDS


async def test_an_agent_in_bin_is_installed_when_it_is_executable(
    kernel: Kernel, bound: BoundSyscalls
) -> None:
    await bound.write_file("/bin/new.md", b"---\nmodel: offline/echo\n---\nBe brief.\n")
    before = await bound.access("/bin/new.md", os.X_OK)
    await bound.sys_setattr("/bin/new.md", Change(mode=0o755))

    await bound.write_file("/proc/spawn", b"new say hello\n")

    process = next(iter(kernel.processes))
    await until(lambda: process.state.ended)
    assert (before, process.agent_id, process.exit_code) == (False, "new", 0)
