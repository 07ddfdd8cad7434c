"""Hostile bodies: the server stays there for others, and needs no more memory than it should.

How long the loop stood is measured in processor time of the server between two answers of
/healthz: a machine under other load does not add to it. The bounds are several times of what was
measured, and a tenth of what used to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import Callable, Iterator

import pytest

from tests.attack.support import Victim, chat, post, status_of, victim
from tests.limits import HANGS_S
from tests.server.support import run_async, until

pytestmark = [pytest.mark.attack, pytest.mark.socket]

MIB = 1024 * 1024
# The promise is 0.25 s; what is asked goes through a second process, and both share two cores.
STANDSTILL_S = 0.8
# Of a body, as many times its size; and what the kernel and the allocator take by the way.
MEMORY_FACTOR = 8
MEMORY_SLACK_BYTES = 24 * MIB
CHAT = "/v1/chat/completions"


def listed(field: str, element: str, count: int) -> bytes:
    return f'{{"prompt":"x","{field}":[{",".join([element] * count)}]}}'.encode()


def messages(element: str, count: int) -> bytes:
    return f'{{"messages":[{",".join([element] * count)}]}}'.encode()


def parts(element: str, count: int) -> bytes:
    inside = ",".join([element] * count)
    return f'{{"messages":[{{"role":"user","content":[{inside}]}}]}}'.encode()


def members(make: Callable[[int], str], count: int) -> bytes:
    return ("{" + ",".join(make(number) for number in range(count)) + "}").encode()


BIG: dict[str, Callable[[], bytes]] = {
    "wrong messages": lambda: messages("1", 2_000_000),
    "wrong messages, 31 MiB": lambda: messages("1", 16_000_000),
    "empty messages": lambda: messages("{}", 2_000_000),
    "tiny valid messages": lambda: messages('{"role":"user","content":"x"}', 500_000),
    "tiny valid tool results": lambda: messages('{"role":"tool"}', 1_000_000),
    "wrong parts": lambda: parts("1", 2_000_000),
    "tiny valid parts": lambda: parts('{"type":"text","text":""}', 300_000),
    "wrong stop": lambda: listed("stop", "1", 2_000_000),
    "tiny valid stop": lambda: listed("stop", '"a"', 1_000_000),
    "wrong tools": lambda: listed("tools", "1", 2_000_000),
    "empty tools": lambda: listed("tools", "{}", 1_000_000),
    "unknown fields": lambda: members(lambda number: f'"k{number}":1', 500_000),
    "one field again and again": lambda: members(lambda _: '"prompt":"x"', 500_000),
    "many options": lambda: (
        b'{"prompt":"x","options":' + members(lambda n: f'"k{n}":1', 500_000) + b"}"
    ),
    "many metadata": lambda: (
        b'{"prompt":"x","metadata":' + members(lambda n: f'"k{n}":"v"', 500_000) + b"}"
    ),
    "a list of lists": lambda: listed("stop", "[]", 2_000_000),
    "a schema of many": lambda: (
        b'{"prompt":"x","response_format":{"type":"json_schema","json_schema":{"schema":'
        + members(lambda n: f'"k{n}":{{}}', 500_000)
        + b"}}}"
    ),
    "a long prompt": lambda: b'{"prompt":"' + b"x" * (30 * MIB) + b'"}',
    "a long prompt of escapes": lambda: b'{"prompt":"' + b"\\u00e9" * (4 * MIB) + b'"}',
    "a long model": lambda: b'{"prompt":"x","model":"' + b"m" * (20 * MIB) + b'"}',
    "blanks": lambda: b"{" + b" " * (30 * MIB) + b'"prompt":"x"}',
    "unfinished at the end": lambda: b'{"prompt":"' + b"x" * (16 * MIB),
    "a list at the top": lambda: b"[" + b",".join([b"1"] * 2_000_000) + b"]",
    "deep lists": lambda: b'{"prompt":' + b"[" * 5_000_000,
    "a long number": lambda: b'{"prompt":"x","seed":' + b"1" * (8 * MIB) + b"}",
    "a long fraction": lambda: b'{"prompt":"x","top_p":0.' + b"1" * (8 * MIB) + b"}",
}

SMALL: dict[str, bytes] = {
    "nothing": b"",
    "NaN": b'{"prompt":"x","top_p":NaN}',
    "Infinity": b'{"prompt":"x","temperature":-Infinity}',
    "NaN inside tools": b'{"prompt":"x","tools":[{"type":"function","function":'
    b'{"name":"f","parameters":{"a":NaN}}}]}',
    "1e400": b'{"prompt":"x","temperature":1e400}',
    "5,000 digits": b'{"prompt":"x","seed":' + b"9" * 5_000 + b"}",
    "the same field twice": b'{"prompt":"x","prompt":1,"stream":"maybe","stream":false}',
    "lone surrogate": b'{"prompt":"\\ud800"}',
    "lone surrogate in a model": b'{"prompt":"x","model":"\\udfff"}',
    "bad UTF-8": b'{"prompt":"\xff\xfe"}',
    "NUL": b'{"prompt":"\\u0000","user":"\\u0000"}',
    "BOM": b'\xef\xbb\xbf{"prompt":"x"}',
    "UTF-16": '{"prompt":"x"}'.encode("utf-16"),
    "UTF-32": '{"prompt":"x"}'.encode("utf-32"),
    "gzip without a word": gzip.compress(b'{"prompt":"x"}'),
    "deep objects": b'{"prompt":"x","tools":[' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
    "deep lists": b'{"prompt":"x","stop":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "null": b"null",
    "a text": b'"prompt"',
    "a number": b"1",
    "two values": b'{"prompt":"x"}{"prompt":"y"}',
    "a form": b"prompt=x",
}


class Others:
    """Another client, who asks /healthz again and again; what the server worked in between."""

    def __init__(self, server: Victim) -> None:
        self._server = server
        self.answers = 0
        self.standstill_s = 0.0

    async def ask(self) -> None:
        async with self._server.client(key=None) as http:
            while True:
                before_s = self._server.processor_s()
                answer = await http.get("/healthz", timeout=60)
                assert answer.status_code == 200
                self.answers += 1
                worked_s = self._server.processor_s() - before_s
                self.standstill_s = max(self.standstill_s, worked_s)


async def attack(server: Victim, request: bytes) -> tuple[int, bytes, float, int]:
    """The status and the answer, for how long the loop stood, and what memory it took."""
    server.forget_peak()
    before_bytes = server.memory_bytes()
    others = Others(server)
    asking = asyncio.create_task(others.ask())
    try:
        raw = await server.connect()
        answer = await raw.exchange(request)
        answered = others.answers
        await until(lambda: others.answers > answered + 1 or asking.done(), "healthz", 60)
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    return status_of(answer), answer, others.standstill_s, server.peak_bytes() - before_bytes


@pytest.fixture(scope="module")
def server() -> Iterator[Victim]:
    """One for all: none of these may leave a trace in it."""
    with victim(JARVIS_HEAD_HOLD_SECONDS="1") as one:
        yield one


@pytest.mark.parametrize("name", BIG)
def test_a_big_body_harms_nobody_else(server: Victim, name: str) -> None:
    """It is answered or refused; others are answered meanwhile; memory is a small multiple."""

    async def main() -> None:
        body = BIG[name]()
        status, answer, stood_s, took_bytes = await attack(server, post(CHAT, body))
        print(f"{len(body) / MIB:.1f} MiB: {status}, {stood_s:.2f} s, {took_bytes / MIB:.0f} MiB")
        assert status in (200, 400, 404, 413, 431), answer[:500]
        assert stood_s < STANDSTILL_S
        assert took_bytes < MEMORY_FACTOR * len(body) + MEMORY_SLACK_BYTES

    run_async(main(), HANGS_S)


@pytest.mark.parametrize(
    "path",
    ["/v1/completions", "/v1/responses", "/v1/embeddings", "/api/chat", "/api/generate"],
)
def test_every_way_in_is_guarded_alike(server: Victim, path: str) -> None:
    """What stops a chat's bad lists stops them on the other endpoints."""

    async def main() -> None:
        for field in ("messages", "input", "prompt", "images", "stop", "tools"):
            for element in ("1", "{}", '{"role":"user","content":"x"}', '"a"'):
                inside = ",".join([element] * 200_000)
                body = f'{{"model":"fake:normal","{field}":[{inside}]}}'.encode()
                status, answer, stood_s, _ = await attack(server, post(path, body))
                assert 200 <= status < 500, (field, element, answer[:500])
                assert stood_s < STANDSTILL_S, (field, element)

    run_async(main(), HANGS_S)


def test_odd_bodies_are_never_our_fault(server: Victim) -> None:
    """Whatever is in a body, with whatever type or encoding: no 5xx, and one clear sentence."""

    async def main() -> None:
        for name, body in SMALL.items():
            for headers in ((), ("content-type: text/plain",), ("content-encoding: gzip",)):
                raw = await server.connect()
                answer = await raw.exchange(post(CHAT, body, *headers))
                status = status_of(answer)
                # There is no such model; under another type or coding it is no body at all.
                is_missing = name == "lone surrogate in a model" and status == 404
                assert is_missing or status in (200, 400, 413, 415), (name, headers, answer)
                if status != 200:
                    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
                    assert error["message"]
                    assert "parsing the body" not in error["message"], (name, error)
        raw = await server.connect()
        assert status_of(await raw.exchange(chat())) == 200
        assert not [line for line in server.output.lines if "Traceback" in line]

    run_async(main(), HANGS_S)


def test_memory_is_given_back() -> None:
    """What was refused, and models that nobody has, are not kept: 40 times 10 MB leave little."""

    async def main() -> None:
        model = b'{"prompt":"x","model":"' + b"m" * (10 * MIB) + b'"}'
        # Of its own: what others have left would be counted with it.
        with victim() as server:
            for request in (chat(), post(CHAT, model)):
                await (await server.connect()).exchange(request)
            before_bytes = server.memory_bytes()
            for _ in range(40):
                await (await server.connect()).exchange(post(CHAT, model))
            raw = await server.connect()
            listed_now = await raw.exchange(
                b"GET /v1/streams HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
                b"authorization: Bearer devkey\r\n\r\n"
            )
            assert status_of(listed_now) == 200
            assert len(listed_now) < 1 * MIB
            # A moment later, when nothing refers to the last of them.
            await until(lambda: server.memory_bytes() - before_bytes < 60 * MIB, "it is given back")

    run_async(main(), HANGS_S)
