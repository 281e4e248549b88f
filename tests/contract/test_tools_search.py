"""glob and grep, over every implementation of ToolFiles."""

import random

import pytest
import trio

from nexusfs.contracts.errors import (
    InvalidError,
    NotFoundError,
    ToolFailedError,
)
from nexusfs.contracts.tool import ToolContext, ToolFiles
from tests.contract.tool_calls import call, link, put, small

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


async def test_grep_skips_binary_files_and_symlinks(ctx: ToolContext) -> None:
    await put(ctx, "/a.bin", b"x\0")
    await put(ctx, "/f", b"x")
    await link(ctx, "/loop", ".")
    await link(ctx, "/link", "f")

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

    assert turns > 1


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

    assert turns > 1
