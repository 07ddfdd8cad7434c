"""`JARVIS_LOG=json`: the words of the text, one object a line, whatever others wrote."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from uvicorn.logging import AccessFormatter, DefaultFormatter

from registry.operations import Logged
from server import log
from server.lines import line
from server.log_json import JsonFormatter
from server.run import config_for
from tests.server.support import create_app, prompt, run_async, settings

NAMES = ("", "onestream", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")
FORGED = '\nstream_start trace=forged\r\u2028\x1b[31m"}'


@contextmanager
def bare() -> Iterator[None]:
    """Loggers without handlers, as a process has them that has just begun.

    Not a fixture: pytest gives the root logger its own for each phase of a test.
    """
    before = logging.getLogger("onestream").level
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(logging.getLogger(name), "handlers", [])
        yield
    log.configure("text")
    logging.getLogger("onestream").setLevel(before)


def printed_by(app: Any, *requests: httpx.Request) -> list[str]:
    """What the process logs while the application answers."""
    kept = io.StringIO()

    async def main() -> None:
        async with app.router.lifespan_context(app):
            (handler,) = logging.getLogger("onestream").handlers
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(kept)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport) as http:
                for request in requests:
                    await http.send(request)

    run_async(main())
    return kept.getvalue().splitlines()


def app_that_logs(form: str) -> Any:
    limits: dict[str, Any] = {"log": form, "ollama_host": "127.0.0.1:1"}
    names = (f"{number:016x}" for number in range(1, 100))
    return create_app(settings(**limits), signals=(), new_trace_id=lambda: next(names))


def requests() -> list[httpx.Request]:
    """What a hostile client may write into a log: names, paths, headers of 10 KB, and keys."""
    chat = "http://localhost/v1/chat/completions"
    key, stranger = ({"authorization": f"Bearer {each}"} for each in ("devkey", "hush"))
    return [
        httpx.Request("POST", chat, headers=key, json=prompt(user=f"chat{FORGED}")),
        httpx.Request("POST", chat, headers=key, json=prompt(session_id=f"a{FORGED}")),
        httpx.Request("POST", chat, headers={**key, "x-session-id": "s" * 10_000}, json=prompt()),
        httpx.Request("POST", chat, headers=key, json=prompt(session_strategy=FORGED)),
        httpx.Request("GET", "http://localhost/no%0Awhere%22%7D%1b[31m", headers=key),
        httpx.Request("GET", f"http://localhost/{'x' * 10_000}", headers=key),
        httpx.Request("GET", "http://localhost/v1/models", headers=stranger),
        httpx.Request('G"}T', "http://localhost/v1/models", headers=key),
    ]


def as_text(named: dict[str, Any]) -> str:
    """The line of text that an object of the log says."""
    rest = {name: value for name, value in named.items() if name not in ("time", "level")}
    text = rest.pop("message", "")
    return str(line(rest.pop("event"), text, **rest))


def test_json_has_the_words_of_the_text_whatever_clients_write() -> None:
    """Each line is one object with time and level, and says what the line of text says."""
    with bare():
        texts = printed_by(app_that_logs("text"), *requests())
    with bare():
        lines = printed_by(app_that_logs("json"), *requests())
    objects = [json.loads(each) for each in lines]
    without_times = [each.partition(" duration_ms=")[0] for each in texts]
    assert [as_text(each).partition(" duration_ms=")[0] for each in objects] == without_times
    assert {each["event"] for each in objects} >= {"stream_start", "request_refused"}
    refused = [each for each in objects if each["event"] == "request_refused"]
    assert len(refused) == len(requests()) - 1
    for each in refused:
        assert list(each) == [
            *("time", "level", "event", "trace", "status", "code", "method", "path", "reason")
        ]
    for printed in (*texts, *lines):
        assert printed.isascii()
        assert printed.isprintable()
        assert len(printed) < 1_000
        assert not printed.startswith("stream_start trace=forged")
        assert "hush" not in printed


def record(name: str, said: object, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "", 0, said, arguments, None)
    made.created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    return made


def test_each_kind_of_line_is_an_object() -> None:
    """Ours by its fields, a request of uvicorn's by its parts, all else as its logger's message."""
    form = JsonFormatter().format
    at = {"time": "2026-01-02T03:04:05.000000Z", "level": "warning"}
    said = Logged("stream_cancelled", (("trace", "abc"), ("reason", "requested")), "why")
    named = {"event": "stream_cancelled", "trace": "abc", "reason": "requested", "message": "why"}
    assert json.loads(form(record("onestream.registry", said))) == at | named
    access = record("uvicorn.access", '%s - "%s %s HTTP/%s" %d', "::1:5", "GET", "/x", "1.1", 200)
    assert json.loads(form(access)) == at | {
        "event": "request",
        "logger": "uvicorn.access",
        "client": "::1:5",
        "method": "GET",
        "path": "/x",
        "http_version": "1.1",
        "status": 200,
    }
    other = {"event": "log", "logger": "uvicorn.error", "message": "a\nb 1"}
    assert json.loads(form(record("uvicorn.error", "a\nb %d", 1))) == at | other


def test_an_exception_stays_on_its_line() -> None:
    """The traceback is a text of the object."""
    kept = io.StringIO()
    with bare():
        log.configure("json")
        (handler,) = logging.getLogger("onestream").handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(kept)
        try:
            raise ValueError("no\nway")
        except ValueError:
            logging.getLogger("onestream.server").exception(line("stream_failed", trace="abc"))
    (printed,) = kept.getvalue().splitlines()
    named = json.loads(printed)
    assert (named["event"], named["trace"], named["level"]) == ("stream_failed", "abc", "error")
    assert "ValueError: no\nway" in named["traceback"]


def test_uvicorns_own_lines_are_json_and_those_of_others_their_own() -> None:
    """A handler that the program around has given another form keeps it."""
    forms = (DefaultFormatter(), AccessFormatter(), logging.Formatter("%(message)s"))
    handlers = [logging.StreamHandler() for _ in forms]
    with bare():
        for name, handler, form in zip(NAMES[2:], handlers, forms, strict=False):
            handler.setFormatter(form)
            logging.getLogger(name).addHandler(handler)
        log.configure("json")
    assert [type(each.formatter) for each in handlers[:2]] == [JsonFormatter, JsonFormatter]
    assert handlers[2].formatter is forms[2]


def test_what_is_printed_among_the_log_is_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it listens is an object on either stream: who collects lines takes both."""
    errors, out = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("JARVIS_LOG", "json")
    with bare():
        log.configure()
        for stream in (errors, out):
            log.say("onestream listens on http://x", stream)
    for stream in (errors, out):
        assert json.loads(stream.getvalue())["message"] == "onestream listens on http://x"


def test_what_uvicorn_says_before_the_application_starts_is_json_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address that is taken, say: its handlers have our form as soon as they are there."""
    with bare():
        for logger in map(logging.getLogger, NAMES[2:5]):
            monkeypatch.setattr(logger, "propagate", logger.propagate)
            monkeypatch.setattr(logger, "level", logger.level)
        config_for("server.app:app", settings(log="json"), "127.0.0.1", 0)
        handlers = [each for name in NAMES for each in logging.getLogger(name).handlers]
    assert {type(each.formatter) for each in handlers} == {JsonFormatter}
    assert len(handlers) > 1
