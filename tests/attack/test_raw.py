"""Requests that no client's library would send: each is answered or refused, none is our fault."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.attack.support import Victim, chat, status_of, victim
from tests.limits import HANGS_S
from tests.server.support import PATIENCE_S, run_async

pytestmark = pytest.mark.socket

HOST = "host: 127.0.0.1\r\n"
KEY = "authorization: Bearer devkey\r\n"
JSON = "content-type: application/json\r\n"
BODY = '{"prompt":"hello"}'
POST = f"POST /v1/chat/completions HTTP/1.1\r\n{HOST}{KEY}{JSON}"
SIZED = f"content-length: {len(BODY)}\r\n"
CLOSE = "connection: close\r\n"

# What is said, and the statuses that may be answered; 0 is a close without a word.
REQUESTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "as it should be": (f"{POST}{CLOSE}{SIZED}\r\n{BODY}", (200,)),
    "lower case method": (f"post /v1/models HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n", (400, 404, 405)),
    "unknown method": (f"BREW /v1/models HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n", (404, 405)),
    "TRACE": (f"TRACE / HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n", (404, 405)),
    "CONNECT": (f"CONNECT 127.0.0.1:1 HTTP/1.1\r\n{HOST}{CLOSE}\r\n", (400, 401, 403, 404, 405)),
    "no method": (f" / HTTP/1.1\r\n{HOST}\r\n", (400,)),
    "HTTP/0.9": ("GET /healthz\r\n\r\n", (0, 400)),
    "HTTP/1.0": ("GET /healthz HTTP/1.0\r\n\r\n", (200,)),
    "HTTP/1.9": (f"GET /healthz HTTP/1.9\r\n{HOST}{CLOSE}\r\n", (200, 400, 505)),
    "HTTP/2.0": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (0, 400, 401, 505)),
    "TLS": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", (0, 400)),
    "no host": (f"GET /v1/models HTTP/1.1\r\n{KEY}{CLOSE}\r\n", (400, 403)),
    "two hosts": (f"GET /v1/models HTTP/1.1\r\n{HOST}{HOST}{KEY}{CLOSE}\r\n", (400, 403)),
    "a blank in a name": (f"GET /healthz HTTP/1.1\r\n{HOST}x y: 1\r\n\r\n", (400,)),
    "a folded header": (f"GET /healthz HTTP/1.1\r\n{HOST}{CLOSE}x: 1\r\n 2\r\n\r\n", (200, 400)),
    "a NUL in a header": (f"GET /healthz HTTP/1.1\r\n{HOST}x: \x00\r\n\r\n", (400,)),
    "bare LF": ("GET /healthz HTTP/1.1\nhost: 127.0.0.1\nconnection: close\n\n", (200, 400)),
    "a bad length": (f"{POST}content-length: many\r\n\r\n{BODY}", (400,)),
    "a negative length": (f"{POST}content-length: -1\r\n\r\n{BODY}", (400,)),
    "two lengths": (f"{POST}content-length: 1\r\n{SIZED}\r\n{BODY}", (400,)),
    "a huge length": (f"{POST}{CLOSE}content-length: {10**30}\r\n\r\n{BODY}", (400, 408, 413)),
    "half a body": (f"{POST}{SIZED}\r\n{BODY[:5]}", (408,)),
    "an unknown coding": (f"{POST}transfer-encoding: x\r\n\r\n{BODY}", (400, 501)),
    "gzip, chunked": (f"{POST}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, 501)),
    "a bad chunk": (f"{POST}transfer-encoding: chunked\r\n\r\nzz\r\nx\r\n", (400, 0)),
    "a negative chunk": (f"{POST}transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n", (400, 0)),
    "half a chunk": (f"{POST}transfer-encoding: chunked\r\n\r\nff\r\nx", (408,)),
    "a chunked body": (
        f"{POST}{CLOSE}transfer-encoding: chunked\r\n\r\n"
        f"9\r\n{BODY[:9]}\r\n{len(BODY) - 9:x};a=b\r\n{BODY[9:]}\r\n0\r\nx: trailer\r\n\r\n",
        (200,),
    ),
    "an absolute target": (
        f"GET http://127.0.0.1/v1/models HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n",
        (200, 400, 404),
    ),
    "an asterisk": (f"OPTIONS * HTTP/1.1\r\n{HOST}{CLOSE}\r\n", (200, 400, 401, 404, 405)),
    "a bad escape": (f"GET /v1/%zz HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n", (400, 404)),
    "UTF-8 that is none": (f"GET /v1/%ff%fe HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n", (400, 404)),
    "a long path": (
        f"GET /{'a' * 20_000} HTTP/1.1\r\n{HOST}{KEY}{CLOSE}\r\n",
        (400, 404, 414, 431),
    ),
    "an offer of h2c": (
        f"{POST}connection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n"
        f"http2-settings: AAMAAABkAAQAAP__\r\n{SIZED}\r\n{BODY}",
        (200,),
    ),
    "expect": (f"{POST}{CLOSE}expect: 100-continue\r\n{SIZED}\r\n{BODY}", (100, 200)),
    "expect a wonder": (f"{POST}{CLOSE}expect: wonder\r\n{SIZED}\r\n{BODY}", (200, 417)),
    "two keys": (
        f"GET /v1/models HTTP/1.1\r\n{HOST}{CLOSE}authorization: x\r\n{KEY}\r\n",
        (200, 400, 401),
    ),
    "a session of controls": (f"{POST}{CLOSE}x-session-id: \x01\r\n{SIZED}\r\n{BODY}", (400,)),
    "a session of bytes": (f"{POST}{CLOSE}x-session-id: é\r\n{SIZED}\r\n{BODY}", (200, 400)),
    "an empty session": (f"{POST}{CLOSE}x-session-id: \r\n{SIZED}\r\n{BODY}", (200, 400)),
    "a long session": (f"{POST}{CLOSE}x-session-id: {'s' * 5000}\r\n{SIZED}\r\n{BODY}", (200, 400)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Victim]:
    with victim(JARVIS_BODY_SECONDS="0.3") as one:
        yield one


@pytest.mark.parametrize("name", REQUESTS)
def test_an_odd_request_is_no_fault_of_ours(server: Victim, name: str) -> None:
    """It gets one of its statuses, never a 5xx of ours, and the server answers the next."""

    async def main() -> None:
        said, expected = REQUESTS[name]
        async with asyncio.timeout(PATIENCE_S):
            answer = await (await server.connect()).exchange(said.encode())
            assert status_of(answer) in expected, answer[:500]
            assert status_of(await (await server.connect()).exchange(chat())) == 200
        assert not [line for line in server.output.lines if "Traceback" in line]

    run_async(main(), HANGS_S)


def test_pipelined_requests_are_answered_in_turn(server: Victim) -> None:
    """Two prompts and a look in one segment: three answers in their order."""

    async def main() -> None:
        streamed = '{"prompt":"two","stream":true}'
        said = (
            f"{POST}{SIZED}\r\n{BODY}"
            f"{POST}content-length: {len(streamed)}\r\n\r\n{streamed}"
            f"GET /healthz HTTP/1.1\r\n{HOST}{CLOSE}\r\n"
        )
        answer = await (await server.connect()).exchange(said.encode())
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200"] * 3
        assert answer.index(b"hello") < answer.index(b"two") < answer.index(b'"status"')

    run_async(main(), HANGS_S)


def test_a_length_and_chunks_together_smuggle_nothing(server: Victim) -> None:
    """What follows such a request on its connection is not taken for a request without its key."""

    async def main() -> None:
        inner = f"GET /v1/streams HTTP/1.1\r\n{HOST}{CLOSE}\r\n"
        said = f"{POST}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        answer = await (await server.connect()).exchange(said.encode())
        assert status_of(answer) == 400
        assert b'"data"' not in answer
        assert all(status in (b"400", b"401") for status in re.findall(rb"HTTP/1\.1 (\d+)", answer))

    run_async(main(), HANGS_S)


# What h11 takes for no request, and what is said of it.
NO_REQUESTS: dict[str, tuple[str, str]] = {
    "a blank": (
        f"GET /healthz HTTP/1.1\r\n{HOST}authorization : Bearer sekret\r\n\r\n",
        "illegal header line, that of authorization",
    ),
    "a control": (
        f"GET /healthz HTTP/1.1\r\n{HOST}x-a: \x0bsekret\r\n\r\n",
        "that of x-a: control characters",
    ),
    "no colon": (f"GET /healthz HTTP/1.1\r\n{HOST}Bearer sekret\r\n\r\n", "illegal header line"),
    "TLS": ("\x16\x03\x01\x02\x00\x01\x00\x01\x03\x03", "write http:// and not https://"),
    "a long head": (f"GET /healthz HTTP/1.1\r\nx: {'a' * 70_000}", "longer than 65536 bytes"),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_request_is_logged_by_its_name(server: Victim, name: str) -> None:
    """In one line, and without what may be a key; uvicorn's own, which has no limit, is left out.

    The name is that of the answer.
    """

    async def main() -> None:
        said, says = NO_REQUESTS[name]
        answer = await (await server.connect()).exchange(said.encode())
        assert says.encode() in answer
        (trace,) = re.findall(rb"(?i)x-trace-id: (\w+)", answer)
        logged = server.output.wait_for(f"request_refused trace={trace.decode()} status=4")
        assert says in logged
        assert b"sekret" not in answer
        lines = server.output.lines
        assert not [line for line in lines if "Invalid HTTP" in line or "sekret" in line]

    run_async(main(), HANGS_S)
