"""Keys inside the worker, and the wire's other small parts."""

import json
import os
from pathlib import Path
from types import SimpleNamespace as Obj

import pytest

from nexusfs.contracts.errors import InvalidError
from nexusfs.services.llm.assembly import Assembly
from nexusfs.services.llm.keys import NO_KEY, Keys, configured_keys, environment_of
from nexusfs.services.llm.settings import check_settings

SECRET = "sk-abcdef0123456789"


def test_the_environment_is_read_from_the_start_each_time() -> None:
    fd = os.memfd_create("env")
    os.write(fd, json.dumps({"A": "b"}).encode())

    assert environment_of(fd) == environment_of(fd) == {"A": "b"}

    os.close(fd)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[keys]\nA_KEY = "file"\nB_KEY = "file"\n')

    keys = Keys({"A_KEY": "env"}, configured_keys(str(tmp_path / "c.toml")))

    assert keys.variables == {"A_KEY": "env", "B_KEY": "file"}


@pytest.mark.parametrize("text", ["keys = 3", "not toml"])
def test_a_bad_file_has_no_keys(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c.toml").write_text(text)

    assert configured_keys(str(tmp_path / "c.toml")) == {}


def test_a_calls_own_endpoint_never_gets_the_environments_key() -> None:
    keys = Keys({"OPENAI_API_KEY": SECRET}, {})

    assert keys.for_base({"api_base": "http://evil/v1"}) == {"api_key": NO_KEY}
    assert keys.for_base({}) == {}


def test_an_endpoint_that_the_user_named_gets_its_key() -> None:
    keys = Keys({"OPENAI_API_BASE": "https://mine/v1"}, {"http://other/v1": "other-key"})

    assert keys.for_base({"api_base": "https://mine/v1/"}) == {}
    assert keys.for_base({"base_url": "http://other/v1"}) == {"api_key": "other-key"}


def test_known_secrets_and_what_looks_like_one_are_scrubbed() -> None:
    keys = Keys({"MY_API_KEY": "verysecret"}, {})

    text = keys.scrub(f"bad verysecret, {SECRET}, Authorization: Bearer abcdefgh")

    assert "verysecret" not in text
    assert SECRET not in text
    assert "abcdefgh" not in text


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"api_key": "x"}, "a key never goes into a spec"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"input_cost_per_token": 0}, "model_settings.input_cost_per_token"),
        ({"callbacks": ["x"]}, "not an option"),
        ({"timeout": 0}, "a number above 0"),
        ({"timeout": True}, "a number above 0"),
    ],
)
def test_a_setting_that_a_spec_may_not_set_is_einval(
    settings: dict[str, object], match: str
) -> None:
    with pytest.raises(InvalidError, match=match):
        check_settings(settings)


def delta(**fields: object) -> Obj:
    return Obj(choices=[Obj(delta=Obj(**fields), finish_reason=None)])


def call(index: int | None, id_: str | None, name: str | None, arguments: str) -> Obj:
    return Obj(index=index, id=id_, function=Obj(name=name, arguments=arguments))


def test_interleaved_tool_calls_are_joined_by_index() -> None:
    assembly = Assembly()
    for one in (call(0, "a", "f", '{"x"'), call(1, "b", "g", ""), call(0, None, None, ":1}")):
        assembly.add(delta(tool_calls=[one]))

    functions = [c["function"] for c in assembly.message()["tool_calls"]]

    assert functions == [{"name": "f", "arguments": '{"x":1}'}, {"name": "g", "arguments": "{}"}]


def test_whole_calls_that_all_claim_index_0_stay_apart() -> None:
    assembly = Assembly()
    for one in (call(0, "a", "f", "{}"), call(0, "b", "g", "{}"), call(None, "c", "h", "{}")):
        assembly.add(delta(tool_calls=[one]))

    assert [c["id"] for c in assembly.message()["tool_calls"]] == ["a", "b", "c"]


def test_signed_thinking_is_kept_whole() -> None:
    assembly = Assembly()
    for thinking, signature in (("I ", None), ("think", None), ("", "sig")):
        block = {"type": "thinking", "thinking": thinking, "signature": signature}
        assembly.add(delta(thinking_blocks=[block], content=None))

    blocks = assembly.message()["thinking_blocks"]

    assert blocks == [{"type": "thinking", "thinking": "I think", "signature": "sig"}]


def test_all_that_a_model_says_is_counted_while_it_comes() -> None:
    assembly = Assembly()
    assembly.add(delta(content="abc"))
    assembly.add(delta(tool_calls=[call(0, "a", "f", "12345")]))
    assembly.add(delta(thinking_blocks=[{"type": "thinking", "thinking": "I"}], content=None))

    assert assembly.size_chars == 3 + 1 + 5 + 1
