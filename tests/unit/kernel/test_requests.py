"""Framing and strict parsing of requests."""

import gc
import math
import time

import pytest
import trio

from nexusfs.contracts.errors import InvalidError, TooBigError
from nexusfs.kernel.requests import (
    REQUEST_LIMIT_BYTES,
    JsonFramer,
    parse_object,
    parse_object_async,
    unknown_key_message,
)


def fault(data: bytes) -> str:
    """The message that `data` is refused with."""
    with pytest.raises(InvalidError) as caught:
        parse_object(data)
    return str(caught.value)


def test_an_object_in_one_piece_is_complete() -> None:
    framer = JsonFramer()

    found = framer.feed_now(b' {"a": [1, "x"]}\n')

    assert found == b'{"a": [1, "x"]}'
    assert framer.value == {"a": [1, "x"]}
    assert not framer.pending


def test_an_open_object_is_incomplete_and_pending() -> None:
    framer = JsonFramer()

    assert framer.feed_now(b'{"a": [1,') is None
    assert framer.pending


def test_each_byte_may_be_a_piece_of_its_own() -> None:
    framer = JsonFramer()
    data = '{"é": [true, -1.5e3, "\\ud83d\\ude00\\n"], "b": {"c": null}}'.encode()

    found = [framer.feed_now(data[i : i + 1]) for i in range(len(data))]

    assert found == [None] * (len(data) - 1) + [data]
    assert framer.value == {"é": [True, -1500.0, "😀\n"], "b": {"c": None}}


def test_white_space_alone_is_no_request() -> None:
    framer = JsonFramer()

    assert framer.feed_now(b" \n\t") is None
    assert not framer.pending


@pytest.mark.parametrize(
    "prefix",
    [b"{bad", b"{'a'", b"x", b"[1]", b'{"a" 1', b'{"a": nul1', b'{"a": 01', b'{"a":[1}',
     b'{"a":"\\x', b'{,', b'{"a":1,}', b'{"a":"\n', b'{"a":"\\u00zz', b'{"a": -x',
     b'{"a":\xff', b"\xc3\xa9"],
)  # fmt: skip
def test_a_malformed_prefix_fails_at_once(prefix: bytes) -> None:
    with pytest.raises(InvalidError):
        JsonFramer().feed_now(prefix)


def test_other_bytes_after_the_object_in_the_same_piece_are_refused() -> None:
    framer = JsonFramer()

    with pytest.raises(InvalidError, match="one object"):
        framer.feed_now(b'{"a":1} {"b":2}')
    assert not framer.pending


def test_half_a_character_after_the_object_is_refused() -> None:
    with pytest.raises(InvalidError, match="one object"):
        JsonFramer().feed_now(b"{}\xc3")


def test_bytes_far_behind_the_object_in_the_same_piece_are_refused() -> None:
    with pytest.raises(InvalidError, match="one object"):
        JsonFramer().feed_now(b"{}" + b" " * 20_000 + b"x")


def test_a_later_piece_is_a_new_request() -> None:
    framer = JsonFramer()
    framer.feed_now(b'{"a":1}')

    assert framer.feed_now(b'{"b":2}') == b'{"b":2}'


def test_after_an_error_the_next_piece_is_a_new_request() -> None:
    framer = JsonFramer()
    with pytest.raises(InvalidError):
        framer.feed_now(b'{"a": bad')

    assert framer.feed_now(b"{}") == b"{}"


def test_the_end_of_an_unfinished_object_is_an_error() -> None:
    framer = JsonFramer()
    framer.feed_now(b'{"a": 1')

    with pytest.raises(InvalidError, match="not closed"):
        framer.end()
    framer.end()


def test_over_the_limit_is_too_big_and_nothing_is_kept() -> None:
    framer = JsonFramer()
    framer.feed_now(b'{"a": "' + b"x" * (REQUEST_LIMIT_BYTES - 8))

    with pytest.raises(TooBigError):
        framer.feed_now(b"xx")
    assert not framer.pending


def test_exactly_the_limit_is_taken() -> None:
    framer = JsonFramer(limit_bytes=10)

    assert framer.feed_now(b'{"a":"xy"}') == b'{"a":"xy"}'


async def test_cancelling_a_feed_forgets_the_request() -> None:
    framer = JsonFramer()

    with trio.CancelScope() as scope:
        scope.cancel()
        await framer.feed(b'{"a": "' + b"x" * 10_000)

    assert scope.cancelled_caught
    assert not framer.pending


HOSTILE = {
    "numbers": b'{"a":[' + b"0," * 500_000,
    "lists": b'{"a":[' + b"[]," * 300_000,
    "escapes": b'{"a":"' + b"\\n" * 500_000,
    "depth": b'{"a":' + b"[" * 1_000_000,
    "digits": b'{"a":' + b"1" * 1_000_000,
    "long numbers": b'{"a":[' + (b"9" * 4300 + b",") * 200,
    "space": b"{" + b"\n" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("piece_bytes", [4096, 1024 * 1024])
async def test_hostile_input_lets_other_tasks_run(name: str, piece_bytes: int) -> None:
    framer, gaps, data = JsonFramer(), [0.0], HOSTILE[name]

    async def watch() -> None:
        last = time.thread_time()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.thread_time()
            gaps.append(now - last)
            last = now

    gc.freeze()  # the collector must not walk what two thousand other tests left in this process
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            for start in range(0, len(data), piece_bytes):
                await framer.feed(data[start : start + piece_bytes])
                await trio.lowlevel.checkpoint()
        except InvalidError:
            pass
        nursery.cancel_scope.cancel()
    gc.unfreeze()

    assert max(gaps) < 0.2  # of this thread's own time: a busy machine does not count; 2 to 20 ms


def test_work_is_linear_in_the_bytes() -> None:
    framer = JsonFramer()
    framer.feed_now(b'{"a":"')

    start = time.perf_counter()
    for _ in range(50_000):
        framer.feed_now(b"x")
    framer.feed_now(b'"}')

    assert time.perf_counter() - start < 5


def test_parse_object_returns_the_dict() -> None:
    assert parse_object(b'{"a": {"b": [1, 2.5, "c", true, null]}}') == {
        "a": {"b": [1, 2.5, "c", True, None]}
    }


async def test_a_large_object_is_parsed_without_stalling() -> None:
    data = b'{"a": "' + b"x" * 1_000_000 + b'"}'

    assert len((await parse_object_async(data))["a"]) == 1_000_000


def test_an_empty_request_is_refused() -> None:
    assert "empty" in fault(b"  ")


def test_an_unclosed_object_is_refused() -> None:
    assert "not closed" in fault(b'{"a": 1')


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[1]", "starts with {"),
        (b'{"a": 1, "a": 2}', 'column 12: the key "a" is there twice'),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": True}', "write true"),
        (b'{"a": None}', "write null"),
        (b'{"a": yes}', "double quotes"),
        (b'{"a": 1e999}', "largest number"),
        (b'{"a": ' + b"1" * 4301 + b"}", "4300"),
        (b'{"a": "\x00"}', "NUL"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\\udc00x"}', "surrogate"),
        (b'{"a": "\\ud800\\u0041"}', "surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "64 levels"),
        (b'{"a": "x\ny"}', "\\n"),
        (b'{"a": "C:\\dir"}', "backslash"),
        (b"{a: 1}", '"key": value'),
        (b'{"a" = 1}', "colon"),
        (b'{"a": 1 "b": 2}', "comma"),
        (b'{"a": [' + b"0," * 100_001 + b"0]}", "100000"),
        (b'{"a": "x"', "not closed"),
        ("\ufeff{}".encode(), "U+FEFF"),
    ],
)
def test_what_no_request_may_contain_is_refused_with_a_hint(data: bytes, says: str) -> None:
    assert says in fault(data)


def test_the_place_of_an_error_is_its_line_and_column() -> None:
    assert "line 3, column 8" in fault(b'{\n  "a": 1,\n  "b": oops\n}')


def test_the_place_is_right_when_the_error_is_in_a_later_piece() -> None:
    framer = JsonFramer()
    framer.feed_now(b'{\n  "a": 1,\n  "b')

    with pytest.raises(InvalidError, match="line 3, column 8"):
        framer.feed_now(b'": oops\n}')


def test_sixty_four_levels_are_allowed() -> None:
    assert parse_object(b'{"a":' * 64 + b"1" + b"}" * 64)


def test_a_number_of_4300_digits_is_allowed() -> None:
    assert parse_object(b'{"a":' + b"9" * 4300 + b"}")["a"] == 10**4300 - 1


def test_a_tiny_number_is_zero_and_no_error() -> None:
    assert math.isclose(parse_object(b'{"a": 1e-999}')["a"], 0.0)


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    assert unknown_key_message("modle", ["model", "task"]) == (
        "unknown key 'modle': did you mean 'model'?"
    )


def test_an_unknown_key_without_a_near_one_is_answered_with_all() -> None:
    assert unknown_key_message("zzz", ["model", "task"], "$.worker") == (
        "unknown key 'zzz' at $.worker: known keys are model, task"
    )
