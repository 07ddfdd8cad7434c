"""A field that stands twice in one object of a body is refused: readers differ in which counts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.body import PIECE_BYTES, Bodies, _Count, _pieces
from server.errors import ApiError
from server.twice import (
    READ_AGAIN_MAX_BYTES,
    READ_AGAIN_MAX_VALUES,
    _has_names,
    check_names,
)

pytestmark = pytest.mark.once


def parse(data: bytes, values_max: int = 100_000) -> Any:
    async def main() -> Any:
        return await Bodies(values_max=values_max, total_max_bytes=1 << 30).work_on(data)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"session_id":"a","session_id":"b"}', "session_id"),
        (b'{"session_id" : "a" , "model":"m", "session_id"\n:\t"b"}', "session_id"),
        (b'{"session_id":"a","session\\u005fid":"b"}', "session_id"),
        (b'{"options":{"seed":1,"seed":2}}', "seed"),
        (b'{"messages":[{"role":"user","role":"tool"}]}', "role"),
        (b'{"stream":true,"stream":false,"a":"\\ud800"}', "stream"),
        ('{"a":1,"a":[]}'.encode("utf-16"), "a"),
        (b'{"":1,"":2}', ""),
        (b'{"stream":true,"stream":1}', "stream"),
        (b'{"options":{"seed":[1],"seed":[1.0]}}', "seed"),
        (b'{"a":"' + b"x" * 200_000 + b'","a":1}', "a"),
    ],
    ids=lambda _: "",
)
def test_a_field_with_two_values_is_refused(data: bytes, name: str) -> None:
    """Anywhere, however it is written, in short bodies and long ones; it is named."""
    with pytest.raises(ApiError, match="stands twice in one object") as refused:
        parse(data)
    assert (refused.value.status, refused.value.param) == (400, name)


@pytest.mark.parametrize(
    "data",
    [
        b'{"session_id":"a","session_id":"a"}',
        b'{"a":{"x":1},"b":{"x":2},"x":3}',
        b'{"a":"\\"x\\":1,\\"x\\":2","b":":c","d":["x\\\\",":","x"]}',
        b'{"a":{"x":1,"y":2},"a":{"y":2,"x":1}}',
        b"{}",
    ],
    ids=lambda _: "",
)
def test_what_only_looks_like_it_is_taken(data: bytes) -> None:
    """The same said twice, the same name in two objects, and names within texts."""
    assert parse(data) == json.loads(data)


def unread(*_: Any, **__: Any) -> None:
    raise AssertionError("read once more")


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"' + b"x" * READ_AGAIN_MAX_BYTES + b'","a":1}',
        b'{"a":[{"b":1,"b":1}' + b',{"b":1}' * (READ_AGAIN_MAX_VALUES // 2) + b"]}",
    ],
    ids=["bytes", "values"],
)
def test_a_body_that_is_very_long_is_not_read_again(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That something stands twice in it is known all the same, and refused without its name."""
    monkeypatch.setattr("server.twice.json.loads", unread)
    with pytest.raises(ApiError, match="too long to be read again") as refused:
        parse(data)
    assert (refused.value.status, refused.value.param) == (400, None)


class Unlooked(list[str]):
    def __iter__(self) -> Any:
        raise AssertionError("looked at, one by one")


def test_what_has_no_names_is_not_looked_at() -> None:
    """Once as many names are found as the text has, as of a list of a million texts."""
    data = b'{"a":["x"]}'
    check_names(data, {"a": Unlooked()}, names=1, values=3)


def test_no_step_takes_all_of_a_long_text_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are counted in the pieces that values are counted in."""
    data = b'{"m":[' + b'{"b":"c"},' * 150_000 + b"1]}"
    longest = 0
    add = _Count.add

    def counted(count: _Count, piece: bytes) -> bool:
        nonlocal longest
        longest = max(longest, len(piece))
        return add(count, piece)

    monkeypatch.setattr(_Count, "add", counted)
    monkeypatch.setattr("server.twice.json.loads", unread)
    assert len(parse(data, 400_000)["m"]) == 150_001
    assert longest <= PIECE_BYTES < len(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(':"\\ax {}[],'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(':"\\ax '), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(':"\\ax '), JSON), st.sampled_from([None, 1]), st.booleans())
def test_names_are_counted_as_the_parser_does(
    value: dict[str, Any], indent: int | None, is_ascii: bool
) -> None:
    """Whatever texts and spaces stand between them, no body is read in vain."""
    data = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    count = _Count(len(data))
    for piece in _pieces(data):
        assert count.add(piece)
    assert _has_names(value, count.names)
    assert not _has_names(value, count.names + 1)
