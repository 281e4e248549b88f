"""The built-in tools for files, over every implementation of ToolFiles."""

import pytest

from nexusfs.contracts.errors import (
    InvalidError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    ToolFailedError,
)
from nexusfs.contracts.tool import Tool, ToolContext
from nexusfs.services.tools import BUILTIN
from tests.contract.tool_calls import TOOLS, call, link, put, small

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


async def test_list_dir_shows_kinds_and_sizes_in_order(ctx: ToolContext) -> None:
    await put(ctx, "/d/b.txt", b"123")
    await ctx.files.make_dirs("/d/a")
    await link(ctx, "/d/link", "nowhere")

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


# all of them


@pytest.mark.parametrize("tool", BUILTIN, ids=lambda tool: tool.name)
def test_every_tool_tells_a_model_when_to_use_it(tool: Tool) -> None:
    assert "Use it" in tool.description
    assert all("description" in one for one in tool.input_schema["properties"].values())
    assert tool.input_schema["additionalProperties"] is False


def test_annotations_are_those_of_the_contract() -> None:
    idempotent = {name for name, tool in TOOLS.items() if tool.annotations["idempotentHint"]}
    read_only = {name for name, tool in TOOLS.items() if tool.read_only}

    by_key = {"ask", "artifact"}
    named = {"read_file", "write_file", "list_dir", "glob", "grep", "wait", "collect"}
    assert idempotent == named | by_key
    assert read_only == {"read_file", "list_dir", "glob", "grep"}


def test_a_write_is_not_repeatable_when_it_is_a_request(ctx: ToolContext) -> None:
    tool = TOOLS["write_file"]

    assert tool.repeatable(ctx.cwd, {"path": "/a.txt"})
    assert not tool.repeatable(ctx.cwd, {"path": "/nexus/proc/spawn"})
    assert not tool.repeatable(ctx.cwd, {"path": "x/../proc/spawn"})
    assert not TOOLS["edit_file"].repeatable(ctx.cwd, {"path": "/a.txt"})
    assert TOOLS["read_file"].repeatable(ctx.cwd, {"path": "/proc/7/status"})


async def test_an_argument_of_the_wrong_type_is_invalid(ctx: ToolContext) -> None:
    with pytest.raises(InvalidError, match=r"\$\.offset"):
        await call("read_file", ctx, path="/a", offset=0)
