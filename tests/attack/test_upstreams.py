"""Hostile upstreams: whatever answers in Ollama's place, the client gets an error, soon enough."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.attack.support import Reply, Victim, reset, upstream, victim
from tests.limits import HANGS_S
from tests.server.support import CLIENTS, events, run_async

pytestmark = [pytest.mark.attack, pytest.mark.socket]

MIB = 1024 * 1024
LIMITS = {
    "JARVIS_FIRST_CHUNK_SECONDS": "0.5",
    "JARVIS_STREAM_INACTIVITY_SECONDS": "0.5",
    "JARVIS_TOTAL_SECONDS": "2",
    "JARVIS_CONNECT_SECONDS": "0.5",
    "JARVIS_MODELS_SECONDS": "0.5",
    "JARVIS_HEAD_HOLD_SECONDS": "0.2",
}
LINE = b'{"message":{"role":"assistant","content":"ok"},"done":false}\n'
DONE = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def says(*pieces: bytes, then: str = "close") -> Reply:
    """Says the pieces, and then closes, resets, or hangs until the server has left."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then == "reset":
            reset(writer)
        elif then == "hang":
            await reader.read()

    return reply


def whole(status: str, body: bytes, *headers: str) -> Reply:
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}", "", ""]
    return says("\r\n".join(lines).encode() + body)


def lines(*found: Any) -> Reply:
    """An orderly answer of these lines: bytes as they are, other values as JSON."""
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in found]
    return says(CHUNKED + chunk(b"".join(parts)) + b"0\r\n\r\n")


def endless(head: bytes, piece: bytes) -> Reply:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return reply


def message(**fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", **fields}, "done": False}


FAILURES: dict[str, Reply] = {
    "reset at once": says(then="reset"),
    "closed at once": says(),
    "silent": says(then="hang"),
    "garbage": says(b"\x16\x03\x01\x02\x00 no HTTP at all\r\n\r\n"),
    "half a head": says(b"HTTP/1.1 200 OK\r\ncontent-", then="hang"),
    "a head that never ends": endless(b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n" * 100),
    "a header line that never ends": endless(b"HTTP/1.1 200 OK\r\nx: ", b"x" * 65536),
    "204": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "205": whole("205 Reset Content", b""),
    "an empty 200": whole("200 OK", b""),
    "301": whole("301 Moved", b"", "location: http://127.0.0.1:9/"),
    "307 to itself": whole("307 Temporary", b"", "location: /api/chat"),
    "304": says(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "only 100": says(b"HTTP/1.1 100 Continue\r\n\r\n", then="hang"),
    "101": says(
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", then="hang"
    ),
    "a page": whole("200 OK", b"<html>Log in</html>", "content-type: text/html"),
    "gzip": whole("200 OK", gzip.compress(b"hello"), "content-encoding: gzip"),
    "gzip of a good answer": whole("200 OK", gzip.compress(LINE + DONE), "content-encoding: gzip"),
    "no gzip": whole("200 OK", LINE, "content-encoding: gzip"),
    "a short body": says(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n" + LINE),
    "a bad chunk": says(CHUNKED + chunk(LINE) + b"zz\r\nno chunk\r\n"),
    "a chunk and a reset": says(CHUNKED + chunk(LINE), then="reset"),
    "a chunk and silence": says(CHUNKED + chunk(LINE), then="hang"),
    "no done": lines(LINE),
    "no line end": lines(LINE[:-1]),
    "half a line": lines(LINE[:-9]),
    "an error line": lines(LINE, {"error": "it broke"}),
    "an error of no text": lines(LINE, {"error": {"a": 1}}),
    "an empty error": lines(LINE, {"error": ""}),
    "a long error line": lines({"error": "x" * (10 * MIB)}),
    "500 of no JSON": whole("500 Oops", b"<html>", "content-type: text/html"),
    "500 with a list": whole("500 Oops", b"[1]"),
    "500 with null": whole("500 Oops", b'{"error":null}'),
    "500 in UTF-16": whole("500 Oops", '{"error":"x"}'.encode("utf-16")),
    "500 that never ends": endless(
        b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n", chunk(b"x" * 65536)
    ),
    "500 of a text that never ends": endless(
        b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b'{"error":"'),
        chunk(b"x" * 65536),
    ),
    "200 that never ends a line": endless(CHUNKED, chunk(b"x" * 65536)),
    "blank lines for ever": endless(CHUNKED, chunk(b"\n" * 4096)),
    "null": lines(b"null\n"),
    "a list": lines(b"[]\n"),
    "a number": lines(b"5\n"),
    "a text": lines(b'"x"\n'),
    "nothing in it": lines({}),
    "NaN": lines(b'{"message":{"content":NaN},"done":false}\n'),
    "deep": lines(b'{"message":' * 20_000 + b"1" + b"}" * 20_000 + b"\n"),
    "bad UTF-8": lines(b'{"message":{"content":"\xff"},"done":false}\n'),
    "message is a text": lines({"message": "x", "done": False}),
    "message is a list": lines({"message": ["x"], "done": False}),
    "content is a number": lines(message(content=5)),
    "content is true": lines(message(content=True)),
    "content is an object": lines(message(content={})),
    "content is a list": lines(message(content=["a"])),
    "thinking is an object": lines(message(content="", thinking={})),
    "thinking is a number": lines(message(content="", thinking=1)),
    "tool calls are a text": lines(message(content="", tool_calls="x")),
    "tool calls are numbers": lines(message(content="", tool_calls=[1])),
    "a tool without function": lines(message(content="", tool_calls=[{}])),
    "a tool's name is a number": lines(
        message(content="", tool_calls=[{"function": {"name": 5, "arguments": {}}}])
    ),
    "a tool's id is an object": lines(
        message(content="", tool_calls=[{"id": {}, "function": {"name": "f", "arguments": {}}}])
    ),
    "done is a text": lines({"message": {"content": "x"}, "done": "no"}),
    "done is a number": lines({"message": {"content": "x"}, "done": 0}),
    "a tool's arguments are a text": lines(
        message(content="", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    ),
    "a tool's index is negative": lines(
        message(content="", tool_calls=[{"function": {"name": "f", "index": -1}}])
    ),
    "done reason is a list": lines(
        {"message": {"content": ""}, "done": True, "done_reason": ["x"]}
    ),
    "a count is a text": lines({"message": {"content": ""}, "done": True, "eval_count": "many"}),
    "a count is negative": lines({"message": {"content": ""}, "done": True, "eval_count": -1}),
    "a count is 1e999": lines(b'{"message":{"content":""},"done":true,"eval_count":1e999}\n'),
}
ANSWERS: dict[str, Reply] = {
    "1xx before 200": says(
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        + (CHUNKED + chunk(LINE + DONE) + b"0\r\n\r\n")
    ),
    "a wrong content type": whole("200 OK", LINE + DONE, "content-type: image/png"),
    "HTTP/1.0 to its end": says(b"HTTP/1.0 200 OK\r\n\r\n" + LINE + DONE),
    "CRLF and blank lines": lines(b"\r\n\n", LINE[:-1] + b"\r\n\r\n", DONE),
    "no line end at the end": lines(LINE, DONE[:-1]),
    "content is null": lines(message(content=None), LINE, DONE),
    "unknown fields": lines({**message(content=""), "more": {"a": [1]}}, LINE, DONE),
    "silence after done": says(CHUNKED + chunk(LINE + DONE), then="hang"),
}
# What may be said to be our own fault: nothing.
OUR_FAULT = "internal_error"


async def asked(server: Victim, model: str, *, stream: bool) -> tuple[int, Any]:
    """The status, and the error or the message that the client sees in the end."""
    body = {"prompt": "hello", "stream": stream, "model": model, "session_id": f"s{hash(model)}"}
    async with server.client() as http:
        answer = await http.post("/v1/chat/completions", json=body, timeout=60)
    if not stream or answer.status_code != 200:
        found = answer.json()
        return answer.status_code, found.get("error") or found["choices"][0]["message"]
    messages = events(answer.text)
    assert messages[-1] == "[DONE]", answer.text[-500:]
    errors = [one["error"] for one in messages[:-1] if "error" in one]
    pieces = [choice["delta"] for one in messages[:-1] for choice in one.get("choices", ())]
    for piece in pieces:
        assert isinstance(piece.get("content") or "", str), piece
        assert isinstance(piece.get("reasoning_content") or "", str), piece
    text = "".join(piece.get("content") or "" for piece in pieces)
    return 200, errors[0] if errors else {"content": text}


Look = Callable[[int, dict[str, Any]], bool]


async def wrong_answers(
    server: Victim, names: Iterable[str], is_right: Look, *, stream: bool
) -> dict[str, Any]:
    """What is not as it should be of the answers to these models, eight at a time."""
    wrong: dict[str, Any] = {}
    left = list(names)

    async def work() -> None:
        while left:
            name = left.pop(0)
            try:
                status, found = await asked(server, name, stream=stream)
            except (AssertionError, ValueError, KeyError, TypeError, httpx.HTTPError) as exc:
                wrong[name] = repr(exc)[:300]
                continue
            if not is_right(status, found):
                wrong[name] = (status, str(found)[:300])

    await asyncio.gather(*(work() for _ in range(8)))
    return wrong


def in_lines(wrong: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {found}" for name, found in wrong.items())


def is_told(status: int, found: dict[str, Any]) -> bool:
    """Whether it blames Ollama, in a sentence and not in a book."""
    code = str(found.get("code"))
    return (code == "cut" or code.startswith("upstream")) and len(found["message"]) < 5000


def is_answered(status: int, found: dict[str, Any]) -> bool:
    return (status, found.get("content")) == (200, "ok")


@dataclass
class Hurt:
    """A server before an upstream that answers as its model is named."""

    server: Victim
    # The reply to a request that names no model, as one for a list does.
    replies: dict[str, Reply]

    @contextmanager
    def unnamed(self, reply: Reply) -> Iterator[Victim]:
        self.replies[""] = reply
        yield self.server
        del self.replies[""]


@contextmanager
def hurt(client: str, limits: Mapping[str, str] = LIMITS, **more: Reply) -> Iterator[Hurt]:
    """It logs no traceback."""
    replies = {**FAILURES, **ANSWERS, "ok": lines(LINE, DONE), **more}
    with (
        upstream(replies.__getitem__) as address,
        victim(upstream=address, JARVIS_OLLAMA_CLIENT=client, **limits) as server,
    ):
        yield Hurt(server, replies)
        traces = [line for line in server.output.lines if "Traceback" in line]
        assert not traces, server.output.lines[-60:]


@pytest.fixture(scope="module", params=CLIENTS)
def hurt_server(request: pytest.FixtureRequest) -> Iterator[Hurt]:
    """One for each client: no answer may leave a trace in it."""
    with hurt(request.param) as one:
        yield one


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_every_failure_is_told(hurt_server: Hurt, stream: bool) -> None:
    """Each ends with an error that blames Ollama in a sentence, and prompts are answered after."""

    async def main() -> None:
        server = hurt_server.server
        wrong = await wrong_answers(server, FAILURES, is_told, stream=stream)
        assert not wrong, in_lines(wrong)
        assert is_answered(*await asked(server, "ok", stream=stream))

    run_async(main(), HANGS_S)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_is_odd_but_right_is_answered(hurt_server: Hurt, stream: bool) -> None:
    """Early hints, HTTP/1.0, CRLF, nulls: the text arrives."""

    async def main() -> None:
        wrong = await wrong_answers(hurt_server.server, ANSWERS, is_answered, stream=stream)
        assert not wrong, in_lines(wrong)

    run_async(main(), HANGS_S)


@pytest.mark.parametrize("name", ["500 that never ends", "500 of a text that never ends"])
def test_an_endless_error_takes_no_memory(hurt_server: Hurt, name: str) -> None:
    """Of a failed answer a bounded beginning is read, and the call ends there."""

    async def main() -> None:
        with hurt_server.unnamed(FAILURES[name]) as server:
            assert is_answered(*await asked(server, "ok", stream=False))
            server.forget_peak()
            before_bytes = server.memory_bytes()
            status, _ = await asked(server, name, stream=False)
            assert status >= 500
            async with server.client() as http:
                # Asks for a list, and names no model.
                assert (await http.get("/v1/models")).status_code >= 500
            assert server.peak_bytes() - before_bytes < 32 * MIB

    run_async(main(), HANGS_S)


def in_segments(data: bytes) -> Reply:
    """The bytes in chunks of 100, as segments of their own, and a whole answer behind them."""

    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for start in range(0, len(data), 100):
            writer.write(chunk(data[start : start + 100]))
            await writer.drain()
        writer.write(chunk(LINE + DONE) + b"0\r\n\r\n")

    return reply


@pytest.mark.parametrize("client", CLIENTS)
def test_a_long_line_in_small_segments_is_little_work(client: str) -> None:
    """A line of 1 MiB costs no more than as many bytes of blank lines, which only are counted."""

    async def main() -> None:
        line = json.dumps(message(content="x" * MIB)).encode() + b"\n"
        blanks = (b" " * 99 + b"\n") * (len(line) // 100)
        replies = {"long": in_segments(line), "blank": in_segments(blanks)}
        with hurt(client, limits={}, **replies) as one:
            server = one.server

            async def work_s(model: str) -> float:
                before_s = server.processor_s()
                status, found = await asked(server, model, stream=False)
                assert (status, found["content"][-2:]) == (200, "ok")
                return server.processor_s() - before_s

            assert is_answered(*await asked(server, "ok", stream=False))
            blank_s, long_s = await work_s("blank"), await work_s("long")
            print(f"{blank_s:.2f} s of work for blank lines, {long_s:.2f} s for a long one")
            # Looked at anew with each segment it was 5 s more.
            assert long_s < 2 * blank_s + 0.5

    run_async(main(), HANGS_S)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"models":5}', b'{"models":[1]}', b'{"models":[{"name":{}}]}']
)
def test_models_of_a_hostile_upstream_are_an_error(hurt_server: Hurt, body: bytes) -> None:
    """GET /v1/models blames Ollama as well, whatever the list is."""

    async def main() -> None:
        listed = whole("200 OK", body, "content-type: application/json")
        with hurt_server.unnamed(listed) as server:
            async with server.client() as http:
                answer = await http.get("/v1/models")
            assert answer.status_code == 502, answer.text
            assert answer.json()["error"]["code"].startswith("upstream")

    run_async(main(), HANGS_S)
