import io
import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from nexusfs.adapters.cli.spec import fields_of, make_spec, with_fields
from nexusfs.adapters.client import Mount

MARKDOWN = b"---\nname: a\ntools: Read, Grep\nprompt: x\n---\nYou review.\n"


def spec(tree: Path, *words: str, **fields: Any) -> Any:
    return json.loads(make_spec(Mount(tree), words, fields))


def test_an_installed_name_and_the_words_after_it_are_agent_and_task(tree: Path) -> None:
    assert spec(tree, "reviewer", "look", "here") == {"agent": "reviewer", "task": "look here"}


def test_options_override_an_installed_agent(tree: Path) -> None:
    assert spec(tree, "reviewer", model="x/y") == {"agent": "reviewer", "model": "x/y"}


def test_with_a_model_words_that_name_nothing_are_the_task(tree: Path) -> None:
    assert spec(tree, "find", "bugs", model="x/y") == {"model": "x/y", "task": "find bugs"}


def test_a_name_that_is_not_installed_is_left_to_the_kernel(tree: Path) -> None:
    assert spec(tree, "reviwer") == {"agent": "reviwer"}


def test_a_quoted_task_needs_no_name(tree: Path) -> None:
    assert spec(tree, "look at /src") == {"task": "look at /src"}


def test_a_word_that_can_be_no_name_is_wrong_usage(tree: Path) -> None:
    with pytest.raises(click.UsageError, match="'Look' names no agent"):
        spec(tree, "Look", "here")


def test_no_words_and_no_options_is_wrong_usage(tree: Path) -> None:
    with pytest.raises(click.UsageError, match="name an agent"):
        spec(tree)


def test_a_file_without_options_is_sent_as_it_is(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(MARKDOWN)

    assert make_spec(Mount(tree), (str(tmp_path / "a.md"),), {}) == MARKDOWN


def test_a_file_that_is_not_there_is_wrong_usage(tree: Path) -> None:
    with pytest.raises(click.UsageError, match=r"no-such\.md: No such file"):
        spec(tree, "./no-such.md")


def test_a_dash_reads_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"model":"m"}')))

    assert spec(tree, "-", "do it") == {"model": "m", "task": "do it"}


def test_fields_go_into_json_and_drop_their_aliases() -> None:
    replaced = with_fields(b'{"model":"m","input":"old"}', {"task": "new"})

    assert json.loads(replaced) == {"model": "m", "task": "new"}


def test_fields_go_into_front_matter_and_the_body_stays() -> None:
    replaced = with_fields(MARKDOWN, {"task": 'say "hi": \n---\nbye', "instructions": "y"})

    _, head, body = replaced.split(b"---\n", 2)
    assert yaml.safe_load(head) == {
        "name": "a",
        "tools": "Read, Grep",
        "task": 'say "hi": \n---\nbye',
        "instructions": "y",
    }
    assert body == b"You review.\n"


def test_markdown_without_front_matter_gets_one() -> None:
    assert with_fields(b"You review.\n", {"task": "t"}) == b'---\n{"task": "t"}\n---\nYou review.\n'


@pytest.mark.parametrize("broken", [b'{"a":', b"[1]", b"---\na: [\n---\nx", b"---\n- a\n---\nx"])
def test_a_broken_spec_is_left_to_the_kernel(broken: bytes) -> None:
    expected = broken if broken != b"[1]" else b'---\n{"task": "t"}\n---\n[1]'

    assert with_fields(broken, {"task": "t"}) == expected


def test_set_takes_json_or_text() -> None:
    options = {"model": "m", "tools": None, "settings": ("max_turns=3", "zone=lab", "labels={}")}

    assert fields_of(options) == {"model": "m", "max_turns": 3, "zone": "lab", "labels": {}}


def test_empty_tools_mean_none_at_all() -> None:
    assert fields_of({"tools": ""}) == {"tools": ""}


def test_set_without_a_value_is_wrong_usage() -> None:
    with pytest.raises(click.UsageError, match="KEY=VALUE"):
        fields_of({"settings": ("zone",)})
