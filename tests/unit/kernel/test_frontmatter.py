"""Agent files: front matter and body."""

import pytest

from nexusfs.contracts.errors import InvalidError, KernelError, NotSpecError, TooBigError
from nexusfs.kernel.frontmatter import parse_agent, parse_agent_async


def agent(front: str, body: str = "Do it.\n") -> bytes:
    return f"---\n{front}\n---\n\n{body}".encode()


def fault(front: str) -> str:
    with pytest.raises(InvalidError) as caught:
        parse_agent(agent(front))
    return str(caught.value)


def test_a_claude_code_agent_is_taken_as_it_is() -> None:
    data = agent(
        "name: reviewer\ndescription: Reviews code\ntools: Read, Grep, Glob\n"
        "model: sonnet\ncolor: blue"
    )

    assert parse_agent(data) == (
        {
            "name": "reviewer",
            "description": "Reviews code",
            "tools": "Read, Grep, Glob",
            "model": "sonnet",
            "color": "blue",
        },
        "Do it.",
    )


def test_lists_mappings_numbers_and_words_are_values() -> None:
    fields, _ = parse_agent(
        agent("tools: [a, b]\nlimits:\n  turns: 5\n  cost: 0.5\nx: true\ny:\nz:\n- 1\n- ~")
    )

    assert fields == {
        "tools": ["a", "b"],
        "limits": {"turns": 5, "cost": 0.5},
        "x": True,
        "y": None,
        "z": [1, None],
    }


def test_block_text_is_kept() -> None:
    assert parse_agent(agent("description: |\n  a: b\n  c"))[0] == {"description": "a: b\nc\n"}


def test_yes_dates_and_quoted_numbers_are_text() -> None:
    assert parse_agent(agent("a: yes\nb: 2024-01-01\nc: '5'\nd: 1:30"))[0] == {
        "a": "yes",
        "b": "2024-01-01",
        "c": "5",
        "d": "1:30",
    }


def test_an_unquoted_description_with_colons_is_text() -> None:
    front = "name: x\ndescription: Use when: it's late. Example: user: 'hi'\ntools: Read"

    assert parse_agent(agent(front))[0] == {
        "name": "x",
        "description": "Use when: it's late. Example: user: 'hi'",
        "tools": "Read",
    }


def test_an_unquoted_description_may_go_over_lines() -> None:
    front = 'name: x\ndescription: Use it:\nuser: "hi"\n<example>\n\ncolor: red'

    assert parse_agent(agent(front))[0] == {
        "name": "x",
        "description": 'Use it:\nuser: "hi"\n<example>',
        "color": "red",
    }


def test_the_body_may_have_rules_and_be_empty() -> None:
    assert parse_agent(b"---\na: 1\n---\nx\n---\ny")[1] == "x\n---\ny"
    assert parse_agent(b"---\na: 1\n---")[1] == ""


def test_windows_lines_and_a_byte_order_mark_are_taken() -> None:
    data = "\ufeff---\r\nname: x\r\n---\r\nDo it.\r\n".encode()

    assert parse_agent(data) == ({"name": "x"}, "Do it.")


def test_empty_front_matter_has_no_fields() -> None:
    assert parse_agent(b"---\n---\nbody") == ({}, "body")


@pytest.mark.parametrize("data", [b"", b"# Title\n", b"name: x\n", b"\x7fELF\xff", b"----\n---\n"])
def test_what_is_no_agent_is_not_a_spec(data: bytes) -> None:
    with pytest.raises(NotSpecError, match="not an agent"):
        parse_agent(data)


def test_front_matter_that_is_not_closed_is_said() -> None:
    with pytest.raises(InvalidError, match="not closed"):
        parse_agent(b"---\nname: x\n")


@pytest.mark.parametrize(
    ("front", "says"),
    [
        ("name: x\nname: y", "line 3: the key 'name' is there twice"),
        ("a: &x 1", "line 2: anchors"),
        ("a: 1\ntools: *", "line 3"),
        ("tools: *a", "line 2: aliases"),
        ("a: !!python/object:os.system x", "line 2: tags"),
        ("a: !x y", "line 2: tags"),
        ("- a\n- b", "key: value"),
        ("just text", "key: value"),
        ("? [a]\n: b", "line 2: a key must be text"),
        ("a: " + "[" * 70 + "]" * 70, "64 levels"),
        ("a: [1", "not YAML"),
        ("a: 1\n\tb: 2", "line 3"),
        ("a: \x01", "not YAML"),
    ],
)
def test_a_mistake_in_the_front_matter_names_its_line(front: str, says: str) -> None:
    assert says in fault(front)


def test_an_alias_bomb_is_refused() -> None:
    front = "a: &a [x]\n" + "\n".join(f"b{i}: &b{i} [*a, *a]" for i in range(30))

    assert "anchors" in fault(front)


def test_a_nul_in_the_body_is_refused() -> None:
    with pytest.raises(InvalidError, match="line 4"):
        parse_agent(b"---\na: 1\n---\nx\0")


def test_huge_front_matter_is_too_big() -> None:
    with pytest.raises(TooBigError):
        parse_agent(agent("a: " + "x" * 70_000))


async def test_long_front_matter_is_parsed_in_a_thread() -> None:
    fields, body = await parse_agent_async(agent("a: " + "x" * 60_000))

    assert len(fields["a"]) == 60_000
    assert body == "Do it."


def test_deep_nesting_of_any_kind_is_a_kernel_error() -> None:
    for front in ("{" * 5000, "[" * 30_000, "- " * 5000, "? " * 5000):
        with pytest.raises(KernelError):
            parse_agent(agent(front))
