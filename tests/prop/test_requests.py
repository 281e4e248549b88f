"""Any request in any pieces: framed alike, parsed as json.loads does, refused with an errno."""

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nexusfs.contracts.errors import KernelError
from nexusfs.kernel.requests import JsonFramer, parse_object

_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
_number = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_value = st.recursive(
    st.none() | st.booleans() | _number | _text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_text, inner, max_size=5),
    max_leaves=20,
)
_object = st.dictionaries(_text, _value, max_size=5)
_hostile = st.text('{}[]",:\\ue0123dDcC8-+.truefalsn \n\x00é😀', max_size=60).map(str.encode)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at each place of `cuts`, modulo its length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(_object, st.booleans(), st.sampled_from([None, 1]), st.lists(st.integers(0, 10_000)))
def test_any_split_of_valid_json_frames_identically(
    value: dict[str, Any], ascii_only: bool, indent: int | None, cuts: list[int]
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    framer = JsonFramer()

    found = [framer.feed_now(piece) for piece in pieces(data, cuts)]

    assert found[-1] == data
    assert not any(found[:-1])
    assert framer.value == value


@given(_object, st.booleans())
def test_valid_json_is_parsed_as_json_loads_does(value: dict[str, Any], ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert parse_object(data) == json.loads(data)


@given(
    st.one_of(st.binary(max_size=60), _hostile, _hostile.map(b'{"a":'.__add__)),
    st.lists(st.integers(0, 60)),
)
def test_random_bytes_raise_kernel_errors_only(data: bytes, cuts: list[int]) -> None:
    framer = JsonFramer()

    for piece in pieces(data, cuts):
        try:
            framer.feed_now(piece)
        except KernelError:
            assert not framer.pending


@given(_hostile.map(b'{"a":'.__add__))
def test_what_is_accepted_is_what_json_loads_accepts(data: bytes) -> None:
    try:
        value = parse_object(data)
    except KernelError:
        return

    assert json.loads(data) == value


@given(_object, st.binary(min_size=1, max_size=3))
def test_an_object_with_one_byte_replaced_never_crashes(value: dict[str, Any], junk: bytes) -> None:
    data = bytearray(json.dumps(value).encode())
    data[len(data) // 2 : len(data) // 2 + 1] = junk

    try:
        mine = parse_object(bytes(data))
    except KernelError:
        return
    assert json.loads(bytes(data)) == mine


@given(_object, st.integers(0, 10_000))
def test_a_proper_prefix_is_incomplete(value: dict[str, Any], cut: int) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    framer = JsonFramer()

    found = framer.feed_now(data[: 1 + cut % (len(data) - 1)])

    assert found is None
    assert framer.pending
