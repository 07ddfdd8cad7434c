"""Heads of requests that mean nothing, or two things: refused with a sentence, once."""

from __future__ import annotations

import asyncio
import json

import pytest

from server.errors import ApiError
from server.heads import check_head
from tests.server.support import Stack, prompt, run_async, stack

pytestmark = pytest.mark.socket

KEY = "authorization: Bearer devkey"


async def answered(server: Stack, request_line: str, *headers: str, body: bytes = b"") -> bytes:
    """All that comes on a connection of its own, up to its end or to the end of the answer."""
    address = server.http.base_url
    reader, writer = await asyncio.open_connection(address.host, address.port)
    lines = (request_line, *headers, f"content-length: {len(body)}", "connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("target", "headers", "status", "code"),
    [
        ("foo", (KEY,), 400, "invalid_target"),
        ("v1/models", (KEY,), 400, "invalid_target"),
        ("*", (), 400, "invalid_target"),
        ("localhost:8000", (), 400, "invalid_target"),
        ("/v1/models", (KEY, "authorization: Bearer other"), 400, "invalid_request"),
        ("/v1/models", (KEY, KEY), 200, ""),
        ("/v1/models", (KEY, "expect: foo"), 417, "expectation_failed"),
        ("/healthz", ("expect: 100-continue, foo",), 417, "expectation_failed"),
        ("/healthz", ("expect: 100-Continue",), 100, ""),
        ("http://localhost:99999/healthz", (), 400, "invalid_host"),
        ("http://localhost:x/healthz", (), 400, "invalid_host"),
        ("http://[::1/healthz", (), 400, "invalid_host"),
        ("http://localhost:/healthz", (), 200, ""),
        ("http://localhost:80/healthz", (), 200, ""),
    ],
)
def test_a_head_that_means_nothing_is_refused(
    target: str, headers: tuple[str, ...], status: int, code: str
) -> None:
    """With what is wrong in it; what means the same twice, or is only unusual, is taken."""

    async def main() -> None:
        async with stack() as server:
            answer = await answered(server, f"GET {target} HTTP/1.1", "host: localhost", *headers)
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert f'"code":"{code}"'.encode() in answer if code else b'"code"' not in answer

    run_async(main())


def test_the_whole_server_may_be_asked_what_it_can() -> None:
    """`OPTIONS *` is treated as OPTIONS of a path; with other methods `*` is none."""

    async def main() -> None:
        async with stack() as server:
            for method, status in (("OPTIONS", 404), ("HEAD", 400), ("options", 400)):
                answer = await answered(server, f"{method} * HTTP/1.1", "host: localhost", KEY)
                assert answer.startswith(b"HTTP/1.1 %d " % status), (method, answer)
            keyless = await answered(server, "OPTIONS * HTTP/1.1", "host: localhost")
            assert keyless.startswith(b"HTTP/1.1 401 ")

    run_async(main())


@pytest.mark.parametrize(
    ("name", "values", "is_one"),
    [
        ("content-type", ("application/json", "Application/JSON"), True),
        ("content-type", ("application/json;charset=utf-8", "application/json"), False),
        ("content-encoding", ("identity", "Identity"), True),
        ("content-encoding", ("identity", "gzip"), False),
        ("authorization", ("Bearer devkey", "Bearer DEVKEY"), False),
    ],
)
def test_capitals_make_two_headers_different_only_where_they_count(
    name: str, values: tuple[str, ...], is_one: bool
) -> None:
    """In a key they do, and in the names of types and encodings they do not."""
    headers = [(name.encode(), value.encode()) for value in values]
    scope = {"type": "http", "method": "POST", "path": "/v1/models", "headers": headers}
    if is_one:
        check_head(scope)
    else:
        with pytest.raises(ApiError, match="with different values"):
            check_head(scope)


@pytest.mark.parametrize(
    "host", ["localhost:x", "localhost:-1", "localhost:+80", "localhost:70000"]
)
def test_a_host_without_a_number_for_its_port_is_refused(host: str) -> None:
    """As of a whole URL in the place of a path."""

    async def main() -> None:
        async with stack() as server:
            answer = await answered(server, "GET /healthz HTTP/1.1", f"host: {host}")
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"which is none with a port from 0 to 65535" in answer

    run_async(main())


def test_two_kinds_of_body_are_none() -> None:
    """Which of the two was meant, nobody can tell; the keys of two headers are not shown."""

    async def main() -> None:
        async with stack() as server:
            body = json.dumps(prompt()).encode()
            kinds = ("content-type: application/json", "content-type: text/plain")
            answer = await answered(
                server, "POST /v1/chat/completions HTTP/1.1", "host: a.localhost", KEY, *kinds,
                body=body,
            )  # fmt: skip
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"Content-Type: is there 2 times" in answer
            two = (KEY, "authorization: Bearer hush")
            refused = await answered(server, "GET /v1/models HTTP/1.1", "host: localhost", *two)
            assert b"hush" not in refused
            assert not server.fake.calls

    run_async(main())


def test_a_client_that_speaks_http_2_unasked_gets_one_answer() -> None:
    """Which says so, and ends the connection: what came behind its preface is not answered."""

    async def main() -> None:
        async with stack() as server:
            address = server.http.base_url
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 505 ")
            assert answer.count(b"\r\n\r\n") == 1
            assert b"the request says HTTP/2.0" in answer

    run_async(main())
