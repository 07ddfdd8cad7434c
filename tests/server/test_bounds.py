"""Every buffer, list and text that a client or Ollama fills has a limit, and it is reached here."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from registry import StreamRegistry
from registry.daemon_executor import DaemonExecutor
from server.archive import _PARTS_MAX, NAME_MAX_CHARS, Archive, Record, streams_in
from server.errors import MESSAGE_MAX_CHARS, ApiError
from server.ollama import (
    ERROR_BODY_MAX_BYTES,
    ERROR_TEXT_MAX_CHARS,
    LINE_MAX_BYTES,
    MODELS_MAX_BYTES,
    Chunk,
    LineSplitter,
    OllamaRequest,
    parse_line,
)
from server.ollama_async import AsyncOllama
from server.ollama_thread import ThreadOllama
from tests.server.support import CLIENTS, run_async


class Endless(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body without end, that counts what was taken of it."""

    def __init__(self) -> None:
        self.taken_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken_bytes += 4096
            yield b"x" * 4096

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for segment in self:
            yield segment


def transport(body: Endless, status: int) -> Any:
    return httpx.MockTransport(lambda request: httpx.Response(status, stream=body))


@pytest.mark.parametrize("client", CLIENTS)
def test_an_error_without_end_is_told_by_its_start(client: str) -> None:
    """Of the body of a failed answer no more is read than a sentence needs."""

    async def main() -> None:
        body = Endless()
        ollama: Any
        if client == "async":
            ollama = AsyncOllama(
                "http://x", connect_s=1.0, new_transport=lambda: transport(body, 500)
            )
        else:
            ollama = ThreadOllama(
                "http://x", connect_s=1.0, read_s=1.0, new_transport=lambda _: transport(body, 500)
            )
        async with StreamRegistry(executor=DaemonExecutor(1)).stream("s") as stream:
            with pytest.raises(ApiError, match="failed with 500: xxx") as caught:
                await ollama.ask(OllamaRequest("/api/chat", {}), stream, None)
        assert len(caught.value.message) < ERROR_TEXT_MAX_CHARS + 100
        assert body.taken_bytes <= ERROR_BODY_MAX_BYTES + 4096

    run_async(main())


@pytest.mark.parametrize(("status", "code"), [(200, "upstream_too_large"), (500, "upstream")])
def test_a_list_of_models_without_end_is_none(status: int, code: str) -> None:
    """Neither the list nor its error is read beyond a limit."""

    async def main() -> None:
        body = Endless()
        ollama = AsyncOllama(
            "http://x", connect_s=1.0, new_transport=lambda: transport(body, status)
        )
        with pytest.raises(ApiError) as caught:
            await ollama.models()
        assert caught.value.code.startswith(code)
        most = MODELS_MAX_BYTES if status == 200 else ERROR_BODY_MAX_BYTES
        assert body.taken_bytes <= most + 4096

    run_async(main())


def test_messages_of_errors_are_bounded() -> None:
    """Whatever they quote: they are kept with the stream and shown with every list."""
    assert len(ApiError(400, "x", "x" * 10**6).message) == MESSAGE_MAX_CHARS
    with pytest.raises(ApiError) as caught:
        parse_line(json.dumps({"error": "x" * 10**6}).encode())
    assert len(caught.value.message) <= ERROR_TEXT_MAX_CHARS + 20


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_no_json_of_ollamas_is_not_passed_on(text: str) -> None:
    """A number that JSON does not have would stand in the arguments of a tool call."""
    line = (
        '{"done":false,"message":{"tool_calls":[{"function":{"name":"f","arguments":{"a":'
        + text
        + "}}}]}}"
    )
    with pytest.raises(ApiError, match="no JSON") as caught:
        parse_line(line.encode())
    assert caught.value.code == "upstream_not_understood"


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    """Names, reasons, messages and the text, however many chunks it came in."""
    record = Record("t", "k", "s", 0, text_max_chars=10_000, registered_at=0.0, model="m" * 10**6)
    assert len(record.model or "") == NAME_MAX_CHARS
    record.note_model("n" * 10**6)
    for _ in range(20_000):
        record.add(Chunk("ab"), 0.0)
    record.end("r" * 10**6, "x" * 10**6, 1.0)
    sizes = [len(record.model or ""), len(record.reason or ""), len(record.message or "")]
    assert sizes == [NAME_MAX_CHARS, NAME_MAX_CHARS, MESSAGE_MAX_CHARS]
    assert record.text == "ab" * 5_000
    kept = [*record._blocks, *record._parts]
    assert len(record._parts) < _PARTS_MAX
    assert sum(sys.getsizeof(part) for part in kept) < 3 * record.text_chars


def test_keeping_a_stream_costs_the_same_however_many_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a new record nor an end looks at those that run, and a list looks at each once."""
    archive = Archive(records_max=3, age_s=100.0)
    running = [Record(f"r{n}", "k", "s", 0, 10, 0.0) for n in range(1000)]
    for record in running:
        archive.add(record, 0.0)
    looks = 0
    ended_at = Record.ended_at

    def looked(record: Record) -> float | None:
        nonlocal looks
        looks += 1
        return ended_at.__get__(record)  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(Record, "ended_at", property(looked, ended_at.__set__))  # type: ignore[attr-defined]
    for record in running[:100]:
        record.end("stop", None, 1.0)
    archive.add(Record("new", "k", "s", 0, 10, 0.0), 1.0)
    assert looks < 1000
    left = archive.of_owner("k", 1.0)
    assert len(left) == 1000 - 100 + 3 + 1
    monkeypatch.undo()
    states = streams_in(StreamRegistry().snapshot())
    assert left[0].view(states, 1.0, with_text=False)["state"] == "ENDED"


def test_a_name_that_comes_again_is_not_forgotten_with_the_older_one() -> None:
    """The record that took an ended one's place stays when that is pushed out."""
    archive = Archive(records_max=0, age_s=100.0)
    older, newer = (Record("t", "k", "s", 0, 10, 0.0) for _ in range(2))
    archive.add(older, 0.0)
    archive.add(newer, 0.0)
    older.end("stop", None, 1.0)
    assert archive.get("k", "t", 1.0) is newer


class CountedBytes(bytes):
    """Bytes that count how often they are split."""

    splits = 0

    def split(self, *arguments: Any) -> list[bytes]:  # type: ignore[override]
        CountedBytes.splits += 1
        return super().split(*arguments)


def test_a_long_line_in_small_parts_is_looked_through_once() -> None:
    """Each byte of it is searched for newlines when it comes, and never again."""
    splitter = LineSplitter()
    parts = [CountedBytes(b"x" * 100)] * 10_000
    assert all(splitter.feed(part) == [] for part in parts)
    assert CountedBytes.splits == len(parts)
    # Nothing that has come is split again: what is kept has no newline, and no `split` is asked.
    assert splitter.feed(b"y\nz\n\n  \nw") == [b"x" * 1_000_000 + b"y", b"z"]
    assert splitter.rest() == [b"w"]
    assert splitter.rest() == []


def test_a_line_is_bounded() -> None:
    """One that grows beyond the limit is no answer of Ollama, in one part or in many."""
    part = b"x" * (LINE_MAX_BYTES // 16)
    splitter = LineSplitter()
    assert not any(splitter.feed(part) for _ in range(16))
    for late in (splitter, LineSplitter()):
        with pytest.raises(ApiError, match="a line of more than"):
            late.feed(b"x" * (LINE_MAX_BYTES + 1))
