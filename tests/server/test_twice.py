"""A field that stands twice in one object of a body is refused: readers differ in which counts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.body import Bodies
from server.errors import ApiError
from server.twice import LOOKED_AT_MAX_BYTES, _names_in, _names_in_text, check_names


def parse(data: bytes) -> Any:
    async def main() -> Any:
        return await Bodies(values_max=50_000, total_max_bytes=1 << 30).work_on(data)

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
        b"{}",
    ],
    ids=lambda _: "",
)
def test_what_only_looks_like_it_is_taken(data: bytes) -> None:
    """The same said twice, the same name in two objects, and names within texts."""
    assert parse(data) == json.loads(data)


def test_a_body_that_is_very_long_is_not_looked_at() -> None:
    """It would be one step of work on all of it; its last value counts, as ever."""
    long = b'{"a":"' + b"x" * LOOKED_AT_MAX_BYTES + b'","a":1}'
    assert parse(long) == {"a": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(':"\\ax {}[],'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(':"\\ax '), inner),
)


@given(st.dictionaries(st.text(':"\\ax '), JSON), st.sampled_from([None, 1]), st.booleans())
def test_names_are_counted_as_the_parser_does(
    value: dict[str, Any], indent: int | None, is_ascii: bool
) -> None:
    """Whatever texts and spaces stand between them: no body without a double is looked at twice."""
    data = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    assert _names_in_text(data) == _names_in(value)
    check_names(data, value)
