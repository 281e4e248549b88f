"""The built-in tools over every implementation of ToolFiles."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from nexusfs.contracts.errors import (
    InvalidError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    ToolFailedError,
)
from nexusfs.contracts.tool import Tool, ToolContext, ToolFiles
from nexusfs.services.tools import BUILTIN, WalkSearch
from tests.contract.host_files import HostFiles

TOOLS = {tool.name: tool for tool in BUILTIN}
SMALL = {"read_chars": 20, "grep_hits": 2, "grep_chars": 30, "list_entries": 3}

MakeFiles = Callable[[Path], ToolFiles]


@pytest.fixture(params=[HostFiles], ids=["host"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ToolFiles:
    made: ToolFiles = request.param(tmp_path)
    return made


@pytest.fixture
def ctx(files: ToolFiles) -> ToolContext:
    return ToolContext(files, "/", "call_1", WalkSearch(files))


def small(ctx: ToolContext) -> ToolContext:
    """The same context with limits that are soon reached."""
    return ToolContext(ctx.files, ctx.cwd, ctx.call_id, ctx.search, SMALL)


async def call(name: str, ctx: ToolContext, **arguments: object) -> str:
    found = await TOOLS[name].run(ctx, **arguments)
    assert isinstance(found, str)
    return found


async def put(ctx: ToolContext, path: str, data: bytes = b"") -> None:
    """A file with its directories."""
    await ctx.files.make_dirs(path.rpartition("/")[0] or "/")
    await ctx.files.write_file(path, data)


# read_file


async def test_read_file_returns_the_text_as_it_is(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", "é\n\nlast".encode())

    assert await call("read_file", ctx, path="/a.txt") == "é\n\nlast"


async def test_read_file_of_an_empty_file_is_empty(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt")

    assert await call("read_file", ctx, path="a.txt") == ""


async def test_read_file_below_nexus_is_the_same_file(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"x")

    assert await call("read_file", ctx, path="/nexus/a.txt") == "x"


async def test_read_file_returns_the_lines_asked_for(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"1\n2\n3\n4\n")

    found = await call("read_file", ctx, path="/a.txt", offset=2, limit=2)

    assert found == "2\n3\n[lines 2 to 3; continue with offset=4]"


async def test_read_file_to_the_last_line_says_nothing_of_more(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"1\n2\n3\n")

    assert await call("read_file", ctx, path="/a.txt", offset=2, limit=2) == "2\n3\n"


async def test_read_file_takes_whole_numbers_written_with_a_point(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"1\n2\n")

    assert await call("read_file", ctx, path="/a.txt", offset=2.0) == "2\n"


async def test_read_file_over_the_limit_is_cut_at_a_line_and_continues(ctx: ToolContext) -> None:
    text = "".join(f"line {number}\n" for number in range(1, 8))
    await put(ctx, "/a.txt", text.encode())

    first = await call("read_file", small(ctx), path="/a.txt")
    second = await call("read_file", small(ctx), path="/a.txt", offset=3)

    assert first == "line 1\nline 2\n[lines 1 to 2; continue with offset=3]"
    assert second == "line 3\nline 4\n[lines 3 to 4; continue with offset=5]"


async def test_read_file_cuts_a_long_line_by_columns(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", ("é" * 25 + "\nend\n").encode())

    first = await call("read_file", small(ctx), path="/a.txt")
    rest = await call("read_file", small(ctx), path="/a.txt", offset=1, column=21)

    assert first == "é" * 20 + "\n[cut inside line 1; continue with offset=1, column=21]"
    assert rest == "é" * 5 + "\nend\n"


async def test_read_file_finds_lines_beyond_the_first_block(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"".join(b"line %07d\n" % number for number in range(1, 60_001)))

    found = await call("read_file", ctx, path="/a.txt", offset=59_999)

    assert found == "line 0059999\nline 0060000\n"


async def test_read_file_past_the_end_says_how_many_lines_there_are(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"1\n2")

    with pytest.raises(ToolFailedError, match="only 2 lines"):
        await call("read_file", ctx, path="/a.txt", offset=9)


async def test_read_file_says_that_a_file_is_binary(ctx: ToolContext) -> None:
    await put(ctx, "/a.bin", b"\x7fELF\0\0\1")

    with pytest.raises(ToolFailedError, match="binary file of 7 bytes"):
        await call("read_file", ctx, path="/a.bin")


async def test_read_file_replaces_what_is_not_utf8(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"caf\xe9\n")

    assert await call("read_file", ctx, path="/a.txt") == "caf\ufffd\n"


async def test_read_file_of_a_directory_names_list_dir(ctx: ToolContext) -> None:
    await ctx.files.make_dirs("/d")

    with pytest.raises(IsDirectoryError, match="list_dir"):
        await call("read_file", ctx, path="/d")


async def test_read_file_of_a_missing_file_names_near_names(ctx: ToolContext) -> None:
    await put(ctx, "/d/report.txt")

    with pytest.raises(NotFoundError, match=r"did you mean '/d/report\.txt'"):
        await call("read_file", ctx, path="/d/reprot.txt")


async def test_read_file_below_a_missing_directory_names_the_near_one(ctx: ToolContext) -> None:
    await put(ctx, "/docs/a.txt")

    with pytest.raises(NotFoundError, match="did you mean '/docs'"):
        await call("read_file", ctx, path="/dosc/b/a.txt")


async def test_read_file_of_a_missing_file_without_near_names_says_where_to_look(
    ctx: ToolContext,
) -> None:
    with pytest.raises(NotFoundError, match="list_dir shows what is in '/'"):
        await call("read_file", ctx, path="/zzz")


# write_file


async def test_write_file_makes_a_file_and_its_directories(ctx: ToolContext) -> None:
    said = await call("write_file", ctx, path="/x/y/a.txt", content="é\n")

    assert await ctx.files.read_file("/x/y/a.txt") == "é\n".encode()
    assert said == "wrote 3 bytes to /x/y/a.txt (a new file)"


async def test_write_file_replaces_all(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"long content")

    said = await call("write_file", ctx, path="/a.txt", content="x")

    assert await ctx.files.read_file("/a.txt") == b"x"
    assert "it had 12 bytes" in said


async def test_write_file_starts_at_the_cwd(ctx: ToolContext) -> None:
    await ctx.files.make_dirs("/home")

    await call("write_file", ToolContext(ctx.files, "/home", "c"), path="./a.txt", content="x")

    assert await ctx.files.read_file("/home/a.txt") == b"x"


async def test_write_file_over_a_directory_fails(ctx: ToolContext) -> None:
    await ctx.files.make_dirs("/d")

    with pytest.raises(IsDirectoryError):
        await call("write_file", ctx, path="/d", content="x")


# edit_file


async def test_edit_file_replaces_the_one_occurrence(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"one\ntwo\nthree\n")

    said = await call("edit_file", ctx, path="/a.txt", old="two\n", new="2\n")

    assert await ctx.files.read_file("/a.txt") == b"one\n2\nthree\n"
    assert said == "replaced 1 occurrence in /a.txt (line 2)"


async def test_edit_file_of_several_occurrences_names_their_lines(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"x\ny\nx x\n")

    with pytest.raises(ToolFailedError, match=r"3 times .*lines 1, 3, 3.*replace_all"):
        await call("edit_file", ctx, path="/a.txt", old="x", new="z")
    assert await ctx.files.read_file("/a.txt") == b"x\ny\nx x\n"


async def test_edit_file_replaces_all_when_asked(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"x\ny\nx x\n")

    await call("edit_file", ctx, path="/a.txt", old="x", new="z", replace_all=True)

    assert await ctx.files.read_file("/a.txt") == b"z\ny\nz z\n"


async def test_edit_file_names_the_line_that_differs_in_white_space(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"x\n    if a:\n")

    with pytest.raises(ToolFailedError, match="line 2 begins like it"):
        await call("edit_file", ctx, path="/a.txt", old="\tif a:", new="")


async def test_edit_file_says_when_lines_end_otherwise(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"a\r\nb\r\n")

    with pytest.raises(ToolFailedError, match=r"\\r\\n"):
        await call("edit_file", ctx, path="/a.txt", old="a\nb", new="")


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("x", "x")])
async def test_edit_file_refuses_what_changes_nothing(ctx: ToolContext, old: str, new: str) -> None:
    await put(ctx, "/a.txt", b"x")

    with pytest.raises(ToolFailedError):
        await call("edit_file", ctx, path="/a.txt", old=old, new=new)


async def test_edit_file_keeps_bytes_that_are_not_utf8(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"caf\xe9 x")

    await call("edit_file", ctx, path="/a.txt", old="x", new="y")

    assert await ctx.files.read_file("/a.txt") == b"caf\xe9 y"


async def test_edit_file_of_a_missing_file_names_near_names(ctx: ToolContext) -> None:
    await put(ctx, "/main.py")

    with pytest.raises(NotFoundError, match=r"/main\.py"):
        await call("edit_file", ctx, path="/mian.py", old="x", new="y")


# list_dir


async def test_list_dir_shows_kinds_and_sizes_in_order(ctx: ToolContext, tmp_path: Path) -> None:
    await put(ctx, "/d/b.txt", b"123")
    await ctx.files.make_dirs("/d/a")
    (tmp_path / "d" / "link").symlink_to("nowhere")

    assert await call("list_dir", ctx, path="/d") == "a/\nb.txt\t3\nlink@"


async def test_list_dir_of_an_empty_directory_says_so(ctx: ToolContext) -> None:
    assert await call("list_dir", ctx) == "[the directory is empty]"


async def test_list_dir_over_the_limit_is_cut_and_continues(ctx: ToolContext) -> None:
    for name in "abcde":
        await put(ctx, f"/{name}")

    assert (
        await call("list_dir", small(ctx))
        == "a\t0\nb\t0\nc\t0\n[3 of 5 entries; continue with offset=4]"
    )
    assert await call("list_dir", small(ctx), offset=4) == "d\t0\ne\t0"


async def test_list_dir_of_a_file_names_read_file(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt")

    with pytest.raises(NotDirectoryError, match="read_file"):
        await call("list_dir", ctx, path="/a.txt")


async def test_list_dir_of_a_missing_directory_names_near_names(ctx: ToolContext) -> None:
    await ctx.files.make_dirs("/source")

    with pytest.raises(NotFoundError, match="/source"):
        await call("list_dir", ctx, path="/sorce")


# glob


async def tree(ctx: ToolContext) -> None:
    for path in ("/src/a.py", "/src/sub/b.py", "/src/sub/c.md", "/src.txt", "/top.py"):
        await put(ctx, path)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", "/src/a.py /src/sub/b.py /top.py"),
        ("src/*.py", "/src/a.py"),
        ("/src/*.py", "/src/a.py"),
        ("src/**/*.py", "/src/a.py /src/sub/b.py"),
        ("**/*.{py,md}", "/src/a.py /src/sub/b.py /src/sub/c.md /top.py"),
        ("[ab].py", "/src/a.py /src/sub/b.py"),
        ("[!a].py", "/src/sub/b.py"),
        ("?.md", "/src/sub/c.md"),
        ("src/**", "/src/a.py /src/sub/b.py /src/sub/c.md"),
        ("./top.py", "/top.py"),
        ("sub/", "/src/sub/"),
        ("src.txt", "/src.txt"),
    ],
)  # fmt: skip
async def test_glob_finds_by_pattern_in_order(ctx: ToolContext, pattern: str, found: str) -> None:
    await tree(ctx)

    assert await call("glob", ctx, pattern=pattern) == found.replace(" ", "\n")


async def test_glob_without_a_search_service_lists(ctx: ToolContext) -> None:
    await tree(ctx)
    alone = ToolContext(ctx.files, "/", "c")

    assert await call("glob", alone, pattern="sub/*", path="/src") == "/src/sub/b.py\n/src/sub/c.md"


async def test_glob_over_the_limit_says_so(ctx: ToolContext) -> None:
    await tree(ctx)

    found = await call("glob", small(ctx), pattern="*")

    assert found.startswith("/src.txt\n/src/a.py\n/src/sub/b.py\n[3 shown, there are more")


async def test_glob_without_a_match_says_so(ctx: ToolContext) -> None:
    assert "matches '*.x'" in await call("glob", ctx, pattern="*.x")


@pytest.mark.parametrize("pattern", ["[", "{a", "a" * 2000])
async def test_glob_refuses_a_broken_pattern(ctx: ToolContext, pattern: str) -> None:
    with pytest.raises(InvalidError, match="pattern"):
        await call("glob", ctx, pattern=pattern)


# grep


async def test_grep_finds_lines_with_path_and_number(ctx: ToolContext) -> None:
    await put(ctx, "/d/a.txt", b"one\ntwo fish\n")
    await put(ctx, "/b.txt", b"fish\r\n")

    assert await call("grep", ctx, pattern="fish$") == "/b.txt:1: fish\n/d/a.txt:2: two fish"


async def test_grep_of_one_file_searches_it_alone(ctx: ToolContext) -> None:
    await put(ctx, "/a.txt", b"x\n")
    await put(ctx, "/b.txt", b"x")

    assert await call("grep", ctx, pattern="x", path="b.txt") == "/b.txt:1: x"


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("^", [1, 2, 3]),
        ("$", [1, 2, 3]),
        ("^b", [2]),
        ("a.b", []),
        (r"a\sb", []),
        ("[^x]", [1, 2, 3]),
    ],
)
async def test_grep_matches_within_lines(
    ctx: ToolContext, pattern: str, numbers: list[int]
) -> None:
    await put(ctx, "/f", b"a\nb\nc")

    found = await call("grep", ctx, pattern=pattern)

    assert [int(line.split(":")[1]) for line in found.splitlines() if ":" in line] == numbers


async def test_grep_ignores_case_when_asked(ctx: ToolContext) -> None:
    await put(ctx, "/f", "ÉTÉ".encode())

    assert await call("grep", ctx, pattern="été", ignore_case=True) == "/f:1: ÉTÉ"


async def test_grep_looks_only_at_included_files(ctx: ToolContext) -> None:
    await put(ctx, "/s/a.py", b"x")
    await put(ctx, "/s/a.md", b"x")

    assert await call("grep", ctx, pattern="x", include="*.py") == "/s/a.py:1: x"


async def test_grep_over_the_limit_says_so(ctx: ToolContext) -> None:
    await put(ctx, "/f", b"x\n" * 5)

    found = await call("grep", small(ctx), pattern="x")

    assert found.startswith("/f:1: x\n/f:2: x\n[2 hits shown, there are more")


async def test_grep_shows_the_part_of_a_long_line_that_matches(ctx: ToolContext) -> None:
    await put(ctx, "/f", b"a" * 5000 + b"needle" + b"b" * 5000)

    found = await call("grep", ctx, pattern="needle")

    assert "needle" in found
    assert len(found) < 250


async def test_grep_counts_lines_over_blocks_and_finds_the_last(ctx: ToolContext) -> None:
    await put(ctx, "/f", b"line\n" * 20_000 + b"needle")

    assert await call("grep", ctx, pattern="needle") == "/f:20001: needle"


async def test_grep_finds_the_last_line_of_a_file_of_whole_blocks(ctx: ToolContext) -> None:
    await put(ctx, "/f", b"x" * (32 * 1024 - 7) + b"\nneedle")

    assert await call("grep", ctx, pattern="^needle$") == "/f:2: needle"


async def test_grep_skips_binary_files_and_symlinks(ctx: ToolContext, tmp_path: Path) -> None:
    await put(ctx, "/a.bin", b"x\0")
    await put(ctx, "/f", b"x")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "link").symlink_to("f")

    assert await call("grep", ctx, pattern="x") == "/f:1: x"


async def test_grep_leaves_out_control_trees_unless_told(ctx: ToolContext) -> None:
    await put(ctx, "/proc/7/status", b"x")
    await put(ctx, "/proc/7/wait", b"x")
    await put(ctx, "/proc/7/events_pipe", b"x")
    await put(ctx, "/process", b"x")

    assert await call("grep", ctx, pattern="x") == "/process:1: x"
    assert await call("grep", ctx, pattern="x", path="/proc/7") == "/proc/7/status:1: x"


async def test_grep_without_a_search_service_says_so(files: ToolFiles) -> None:
    with pytest.raises(ToolFailedError, match="search service"):
        await call("grep", ToolContext(files, "/", "c"), pattern="x")


async def test_grep_without_a_match_says_so(ctx: ToolContext) -> None:
    assert "no line" in await call("grep", ctx, pattern="x")


@pytest.mark.parametrize("pattern", ["(a", "a(?=b)", r"(a)\1", "((a{100}){100}){100}", "*a"])
async def test_grep_refuses_what_re2_does_not_know(ctx: ToolContext, pattern: str) -> None:
    with pytest.raises(InvalidError, match="pattern"):
        await call("grep", ctx, pattern=pattern)


async def test_grep_of_a_missing_path_names_near_names(ctx: ToolContext) -> None:
    await ctx.files.make_dirs("/source")

    with pytest.raises(NotFoundError, match="/source"):
        await call("grep", ctx, pattern="x", path="/sorce")


@pytest.mark.parametrize("line_bytes", [1000, 300_000])
@pytest.mark.parametrize("pattern", ["(a+)+$", "[ab]*a[ab]{500}x", "a[ab]{14}x"])
async def test_a_hostile_pattern_lets_other_tasks_run(
    ctx: ToolContext, pattern: str, line_bytes: int
) -> None:
    line = bytes(random.Random(1).choices(b"ab", k=line_bytes))
    await put(ctx, "/f", (line + b"\n") * (300_000 // line_bytes))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await call("grep", ctx, pattern=pattern)
            nursery.cancel_scope.cancel()

    assert turns > 5


async def test_a_big_tree_lets_other_tasks_run(ctx: ToolContext) -> None:
    for number in range(300):
        await put(ctx, f"/d/{number}")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await call("glob", ctx, pattern="nothing")
        nursery.cancel_scope.cancel()

    assert turns > 5


# all of them


@pytest.mark.parametrize("tool", BUILTIN, ids=lambda tool: tool.name)
def test_every_tool_tells_a_model_when_to_use_it(tool: Tool) -> None:
    assert "Use it" in tool.description
    assert all("description" in one for one in tool.input_schema["properties"].values())
    assert tool.input_schema["additionalProperties"] is False


def test_annotations_are_those_of_the_contract() -> None:
    idempotent = {name for name, tool in TOOLS.items() if tool.annotations["idempotentHint"]}
    read_only = {name for name, tool in TOOLS.items() if tool.read_only}

    assert idempotent == {"read_file", "write_file", "list_dir", "glob", "grep"}
    assert read_only == {"read_file", "list_dir", "glob", "grep"}


def test_a_write_is_not_repeatable_when_it_is_a_request(ctx: ToolContext) -> None:
    tool = TOOLS["write_file"]

    assert tool.repeatable(ctx, {"path": "/a.txt"})
    assert not tool.repeatable(ctx, {"path": "/nexus/proc/spawn"})
    assert not tool.repeatable(ctx, {"path": "x/../proc/spawn"})
    assert not TOOLS["edit_file"].repeatable(ctx, {"path": "/a.txt"})
    assert TOOLS["read_file"].repeatable(ctx, {"path": "/proc/7/status"})


async def test_an_argument_of_the_wrong_type_is_invalid(ctx: ToolContext) -> None:
    with pytest.raises(InvalidError, match=r"\$\.offset"):
        await call("read_file", ctx, path="/a", offset=0)
