"""What those who run the server see: refusals in the log, health, readiness, signposts."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.lines import line
from server.refusals import LINES_MAX, LINES_PER_S, FewRefusals
from tests.server.support import error_of, free_port, prompt, run_async, settings, stack, until

pytestmark = pytest.mark.once


def app_alone(**limits: Any) -> Any:
    """An application whose Ollama is away."""
    limits.setdefault("ollama_host", f"127.0.0.1:{free_port()}")
    return create_app(settings(**limits), signals=())


def client_of(app: Any, **more: Any) -> httpx.AsyncClient:
    """A client without a socket, with the key."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"authorization": "Bearer devkey"}
    return httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8000", headers=headers, **more
    )


# ---- refusals in the log --------------------------------------------------------------------


def test_a_refused_request_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever refuses it, the line has its trace id, status and code, and nothing unescaped."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        app = app_alone(body_max_bytes=1000)
        async with app.router.lifespan_context(app), client_of(app) as http:
            for refused in (
                await http.get("/v1/models", headers={"authorization": "Bearer hush\tquiet"}),
                await http.post("/v1/chat/completions", content=b"{"),
                await http.post("/v1/chat/completions", json={"prompt": "x", "n": 2}),
                await http.post("/v1/chat/completions", content=b"x" * 1001),
                await http.get("/no%0Awhere%1b[31m"),
                await http.delete("/v1/chat/completions"),
                await http.get("/v1/streams/%0Astream_start%20trace=forged"),
            ):
                line = next(
                    line
                    for line in caplog.messages
                    if f"trace={refused.headers['x-trace-id']} " in line
                )
                code = error_of(refused)["code"]
                assert line.startswith("request_refused ")
                assert f" status={refused.status_code} code={code} " in line
                assert line.isascii()
                assert line.isprintable()
        assert "hush" not in caplog.text

    run_async(main())


@pytest.mark.socket
def test_a_prompt_that_fails_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Also where the error only stands among the messages of a stream that had begun."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with stack() as server:
            for model, code in (("fake:missing", "model_not_found"), ("fake:cut", "cut")):
                answer = await server.post(prompt(model=model, stream=True))
                trace = answer.headers["x-trace-id"]
                assert any(
                    line.startswith(f"stream_error trace={trace} ") and f" code={code} " in line
                    for line in caplog.messages
                ), caplog.messages

    run_async(main())


@pytest.mark.socket
def test_a_prompt_that_is_not_let_in_is_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it was refused for, a busy session as well as a full queue."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with stack(queue_max=1) as server:
            hangs = asyncio.create_task(server.post(prompt(model="fake:hang-midstream")))
            await until(lambda: server.states() == ["ACTIVE"], "it is active")
            waits = asyncio.create_task(server.post(prompt(session_strategy="enqueue")))
            await until(lambda: len(server.states()) == 2, "one waits")
            refused = [
                await server.post(prompt(session_strategy=strategy))
                for strategy in ("reject", "enqueue")
            ]
            for answer, code in zip(refused, ("session_busy", "queue_full"), strict=True):
                trace, status = answer.headers["x-trace-id"], answer.status_code
                start = f"stream_error trace={trace} status={status} code={code} "
                assert any(line.startswith(start) for line in caplog.messages), caplog.messages
            hangs.cancel()
            waits.cancel()
            await server.quiet()

    run_async(main())


def test_a_flood_of_refusals_does_not_fill_the_log() -> None:
    """A burst is printed, then a fixed number per second; the next line says how many were not."""
    few = FewRefusals()

    def line_at(second: float, name: str = "onestream.refused") -> str | None:
        record = logging.LogRecord(name, logging.INFO, "", 0, line("refused"), None, None)
        record.created = second
        return record.getMessage() if few.filter(record) else None

    printed = [line_at(1000.0) for _ in range(10_000)]
    assert printed.count("refused") == LINES_MAX
    assert line_at(1000.0, "onestream.server") == "refused"
    left_out = 10_000 - LINES_MAX
    assert line_at(1000.0 + 1 / LINES_PER_S) == f"refused not_logged_before={left_out}"
    assert line_at(1000.0 + 1 / LINES_PER_S) is None
    # A clock that is put back takes nothing away, and gives nothing.
    assert line_at(10.0) is None
    assert line_at(10.0 + 1 / LINES_PER_S) == "refused not_logged_before=2"


def test_an_unforeseen_failure_is_logged_and_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer is made inside of Starlette, which hands the exception on to itself."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        app = app_alone()

        @app.get("/fails")
        async def fails() -> None:
            raise RuntimeError("unforeseen")

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            # As uvicorn gives it.
            await app({**scope, "state": {}}, receive, send)

        async with app.router.lifespan_context(app), client_of(with_state) as http:
            answer = await http.get("/fails")
            assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
            found = (await http.get("/metrics")).text
            assert 'code="internal_error",status="500",worker=""} 1.0' in found, found
        (said,) = [each for each in caplog.messages if each.startswith("request_refused ")]
        assert f" trace={answer.headers['x-trace-id']} " in said

    run_async(main())


def test_what_fails_outside_of_the_own_middleware_is_answered_and_logged_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a middleware of the user's, as an error of the server's, once."""
    caplog.set_level(logging.INFO)

    class Fails:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise RuntimeError("unforeseen")

    async def main() -> None:
        app = app_alone()
        app.add_middleware(Fails)
        async with app.router.lifespan_context(app), client_of(app) as http:
            answer = await http.get("/healthz")
            assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
        assert len([each for each in caplog.messages if "internal_error" in each]) == 1

    run_async(main())


# ---- health and readiness -------------------------------------------------------------------


@pytest.mark.socket
def test_health_counts_the_streams_by_state() -> None:
    """One of a session is active, without a key, by GET and by HEAD, also as /health."""

    async def main() -> None:
        async with stack() as server:
            task = asyncio.create_task(server.post(prompt(model="fake:hang-midstream")))
            await until(lambda: server.states() == ["ACTIVE"], "it is active")
            keyless = {"authorization": ""}
            for path in ("/healthz", "/health", "/healthz/"):
                answer = await server.http.get(path, headers=keyless)
                assert answer.json() == {
                    "status": "ok",
                    "streams": {"waiting": 0, "active": 1, "stopping": 0, "detached": 0},
                }
                head = await server.http.head(path, headers=keyless)
                assert (head.status_code, head.content) == (200, b"")
                assert head.headers["content-length"] == answer.headers["content-length"]
            task.cancel()
            await server.quiet()

    run_async(main())


@pytest.mark.socket
def test_ready_is_who_reaches_ollama() -> None:
    """200 where it answers; 503 where it is away, and from the first word of a shut-down on."""

    async def main() -> None:
        async with stack() as server:
            assert (await server.http.get("/readyz")).json() == {"status": "ok"}
            assert (await server.http.head("/readyz")).status_code == 200
            server.service.begin_shutdown()
            assert error_of(await server.http.get("/readyz"))["code"] == "shutting_down"
        app = app_alone()
        async with app.router.lifespan_context(app), client_of(app) as http:
            answer = await http.get("/readyz", headers={"authorization": ""})
            assert (answer.status_code, error_of(answer)["code"]) == (503, "upstream_unreachable")

    run_async(main())


def test_ready_asks_ollama_once_in_a_moment() -> None:
    """Many who ask at once, and soon after, get the result of the one call, also if it hangs."""
    asked: list[str] = []

    class Hangs(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    async def main() -> None:
        app = create_app(settings(models_seconds=0.05), signals=(), async_transport=Hangs)
        async with app.router.lifespan_context(app), client_of(app) as http:
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(20)))
            answers.append(await http.get("/readyz"))
            assert {error_of(answer)["code"] for answer in answers} == {"upstream_silent"}
            assert {answer.status_code for answer in answers} == {504}
            assert len(asked) == 1

    run_async(main())


# ---- signposts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "part"),
    [
        ("POST", "/chat/completions", "it is /v1/chat/completions: the base URL has to end in /v1"),
        ("GET", "/models/", "it is /v1/models: the base URL"),
        ("GET", "/streams/abc", "it is /v1/streams/abc: the base URL"),
        ("POST", "/v1/v1/chat/completions", "stands there twice"),
        ("POST", "/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("GET", "/nowhere", "POST /v1/chat/completions; GET /docs has all paths"),
        ("GET", "/" + "x" * 5000, "POST /v1/chat/completions"),
    ],
)
def test_a_path_that_is_not_there_says_what_is(method: str, path: str, part: str) -> None:
    """404 with the right path where it is near, else with the place that has all."""

    async def main() -> None:
        app = app_alone()
        async with app.router.lifespan_context(app), client_of(app) as http:
            answer = await http.request(method, path)
            assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
            assert part in error_of(answer)["message"]
            assert len(answer.content) < 600

    run_async(main())


@pytest.mark.parametrize("name", ["pull", "push", "create", "copy", "delete", "blobs/sha256:0"])
def test_what_manages_models_is_ollamas_own(name: str) -> None:
    """404 that names no path that looks alike but who does it, in the form of /api."""

    async def main() -> None:
        app = app_alone()
        async with app.router.lifespan_context(app), client_of(app) as http:
            for method in ("POST", "DELETE"):
                answer = await http.request(method, f"/api/{name}")
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
                assert "models are not managed here: ask Ollama itself" in answer.json()["error"]

    run_async(main())


def test_methods_of_a_path_that_the_document_has_not_stand_in_one_order() -> None:
    """Starlette has them in a set, so that they were others in each process."""
    methods = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "PUT", "TRACE"]

    async def main() -> None:
        app = app_alone()
        app.add_api_route("/own", lambda: "", methods=methods, include_in_schema=False)
        async with app.router.lifespan_context(app), client_of(app) as http:
            answer = await http.post("/own")
            assert (answer.status_code, answer.headers["allow"]) == (405, ", ".join(methods))

    run_async(main())


def test_a_wrong_method_is_told_the_right_ones() -> None:
    """405 with `Allow`, as the sentence has it."""

    async def main() -> None:
        app = app_alone()
        async with app.router.lifespan_context(app), client_of(app) as http:
            for method, path, allowed in (
                ("GET", "/v1/chat/completions", "POST"),
                ("POST", "/v1/models", "GET, HEAD"),
                ("HEAD", "/v1/streams/x/cancel/", "POST"),
                ("POST", "/openapi.json", "GET, HEAD"),
            ):
                answer = await http.request(method, path)
                told = ", ".join(sorted(answer.headers["allow"].split(", ")))
                assert (answer.status_code, told) == (405, allowed)

    run_async(main())


def test_a_slash_at_the_end_changes_nothing() -> None:
    """It is served, and asked for its key, as the path without; nobody is redirected."""

    async def main() -> None:
        app = app_alone(api_keys="hush")
        async with app.router.lifespan_context(app), client_of(app) as http:
            answer = await http.post("/v1/chat/completions/", json={}, headers={"host": "evil"})
            assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
            key = {"authorization": "Bearer hush"}
            answer = await http.post("/v1/chat/completions/", json={}, headers=key)
            assert (answer.status_code, error_of(answer)["param"]) == (400, "messages")

    run_async(main())


@pytest.mark.parametrize("root_path", ["", "/llm"])
def test_the_root_says_what_this_is(root_path: str) -> None:
    """Without a key, beginning as Ollama's own answer, with and without a root path."""

    async def main() -> None:
        app = app_alone(api_keys="hush")
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            for path in (f"{root_path}/", root_path or "/"):
                answer = await http.get(path)
                assert answer.text.startswith("Ollama is running"), path
            assert (await http.get(f"{root_path}/healthz/")).status_code == 200
            assert (await http.get(f"{root_path}/v1/models/")).status_code == 401

    run_async(main())


def test_a_head_request_keeps_no_watchers_place() -> None:
    """It is answered at once, and nobody watches: its answer would have no end."""

    async def main() -> None:
        app = app_alone(watchers_max=1)
        async with app.router.lifespan_context(app), client_of(app) as http:
            for _ in range(3):
                answer = await http.head("/v1/streams?watch")
                assert (answer.status_code, answer.content) == (200, b"")
                assert answer.headers["content-type"].startswith("text/event-stream")

    run_async(main())
