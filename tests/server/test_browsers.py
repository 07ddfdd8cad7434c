"""Pages in browsers, and middleware that users add: both meet every answer, refusals included."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from server.app import create_app
from server.settings import LOCAL_ORIGINS
from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server.support import (
    DEVKEY,
    RawClient,
    error_of,
    prompt,
    run_async,
    serving,
    settings,
    stack,
    until,
)

LOCAL = "http://localhost:5173"
ALLOWED = "access-control-allow-origin"
ASKING = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-session-id",
}


async def asked(
    app: FastAPI, method: str, path: str, headers: dict[str, str], **more: Any
) -> httpx.Response:
    """What the application answers, in process."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await http.request(method, path, headers=headers, **more)


def answer(
    method: str, path: str, headers: dict[str, str], *, add: Any = None, **limits: Any
) -> httpx.Response:
    found: list[httpx.Response] = []

    async def main() -> None:
        app = create_app(settings(ollama_host="127.0.0.1:1", **limits), signals=())
        if add is not None:
            add(app)
        found.append(await asked(app, method, path, headers))

    run_async(main())
    return found[0]


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        (LOCAL, None, True),
        ("http://localhost", None, True),
        ("https://127.0.0.1:8443", None, True),
        ("http://[::1]:3000", None, True),
        ("app://obsidian.md", None, True),
        ("vscode-webview://abc", None, True),
        ("http://evil.example", None, False),
        ("http://localhost.evil.example", None, False),
        ("http://localhost:80/evil.example", None, False),
        ("null", None, False),
        (LOCAL, "", False),
        (LOCAL, "https://chat.example", False),
        ("https://chat.example", "https://chat.example/, http://x.example:*", True),
        ("http://x.example:8080", "https://chat.example/, http://x.example:*", True),
        ("https://chatXexample", "https://chat.example", False),
        ("http://evil.example", "*", True),
    ],
)
def test_a_preflight_needs_no_key(origin: str, origins: str | None, allowed: bool) -> None:
    """Pages of this machine may call, or those that the setting names; a key is not asked for."""
    path = "/v1/chat/completions"
    response = answer("OPTIONS", path, {"origin": origin, **ASKING}, cors_origins=origins)
    assert response.status_code == (200 if allowed else 400)
    assert response.headers.get(ALLOWED) == (
        (origins if origins == "*" else origin) if allowed else None
    )
    if allowed:
        assert "x-session-id" in response.headers["access-control-allow-headers"]
        assert "POST" in response.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/models", {}, 401),
        ("GET", "/v1/nothing", DEVKEY, 404),
        ("GET", "/v1/models", DEVKEY, 503),
        ("GET", "/boom", DEVKEY, 500),
        ("GET", "/healthz", {}, 200),
    ],
)
def test_every_answer_can_be_read_by_a_page(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Refusals, faults of the upstream and of our own have the headers, and the trace id."""

    def add(app: FastAPI) -> None:
        app.get("/boom")(boom)

    response = answer(method, path, {"origin": LOCAL, **headers}, add=add)
    assert response.status_code == status
    assert response.headers[ALLOWED] == LOCAL
    assert "X-Trace-Id" in response.headers["access-control-expose-headers"]
    assert response.headers["x-trace-id"]
    if status >= 400:
        assert error_of(response)


async def boom() -> None:
    raise RuntimeError("nobody foresaw it")


def test_a_body_that_is_too_large_is_told_to_a_page() -> None:
    """413 has the headers, too."""

    async def main() -> None:
        app = create_app(settings(body_max_bytes=10), signals=())
        headers = {"origin": LOCAL, **DEVKEY}
        response = await asked(app, "POST", "/v1/chat/completions", headers, content=b"x" * 15)
        assert (response.status_code, response.headers[ALLOWED]) == (413, LOCAL)

    run_async(main())


def test_a_page_that_may_call_is_no_stranger_to_devkey() -> None:
    """With devkey alone a page of elsewhere is refused, unless the setting names it."""
    headers = {"origin": "https://chat.example", **DEVKEY}
    refused = answer("GET", "/v1/models", headers)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "devkey_on_loopback_only")
    allowed = answer("GET", "/v1/models", headers, cors_origins="https://*.example")
    assert allowed.status_code == 503


@pytest.mark.parametrize(
    "origin",
    [
        "chat.example",
        "https://chat.example/path",
        "https://chat.example?x",
        "https://chat.example#x",
        "https://chat .example",
        "https://Chat.example",
        "HTTPS://chat.example",
        "https://chät.example",
        "https://chat.example:port",
        "https://",
        "http:///",
        "://chat.example",
    ],
)
def test_an_origin_that_is_none_is_refused_at_the_start(origin: str) -> None:
    """What no browser would ever send: the message shows the value, and how one looks."""
    with pytest.raises(ValidationError, match="JARVIS_CORS_ORIGINS") as caught:
        settings(cors_origins=f"http://x.example, {origin}")
    assert ascii(origin) in str(caught.value)


def test_a_password_in_an_origin_is_not_shown() -> None:
    """It is no part of an origin, and the refusal stands in a log."""
    with pytest.raises(ValidationError, match=r"'https://\\u2026@chat\.example'") as caught:
        settings(cors_origins="https://me:hush@hush@chat.example")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "null",
        ", ".join(LOCAL_ORIGINS),
        "https://*.example:*/",
        "*://chat.example",
        "chrome-extension://abc_d",
        "file://",
        "http://[::1]:*",
        "http://192.168.0.*:3000",
    ],
)
def test_every_form_of_an_origin_is_taken(origins: str) -> None:
    """Those of this machine's programs, patterns and addresses."""
    assert settings(cors_origins=origins).cors_allowed


def test_a_users_own_cors_goes_before_ours() -> None:
    """add_middleware works as everywhere: a preflight of another origin, and one header each."""

    def add(app: FastAPI) -> None:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=["https://chat.example"],
            allow_methods=["*"],
            allow_headers=["*"],
        )

    headers = {"origin": "https://chat.example"}
    preflight = answer("OPTIONS", "/v1/chat/completions", {**headers, **ASKING}, add=add)
    assert preflight.status_code == 200
    refused = answer("GET", "/v1/models", headers, add=add, api_keys="k1")
    assert refused.status_code == 401
    assert refused.headers.get_list(ALLOWED) == ["https://chat.example"]


def test_middleware_of_users_sees_every_request_and_every_answer() -> None:
    """Pure ASGI or a function; a route that a user adds is closed to who has no key."""
    seen: list[tuple[str, int]] = []

    class Pure:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def noted(message: Any) -> None:
                if message["type"] == "http.response.start":
                    seen.append(("pure", message["status"]))
                await send(message)

            await self.app(scope, receive, noted)

    def add(app: FastAPI) -> None:
        app.add_middleware(Pure)
        app.get("/mine")(lambda: "secret")

        @app.middleware("http")
        async def function(request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            seen.append(("function", response.status_code))
            response.headers["x-mine"] = "yes"
            return response

    response = answer("GET", "/mine", {}, add=add)
    assert (response.status_code, response.headers["x-mine"]) == (401, "yes")
    response = answer("GET", "/mine", DEVKEY, add=add)
    assert (response.status_code, response.headers["x-mine"]) == (200, "yes")
    assert sorted(seen) == [("function", 200), ("function", 401), ("pure", 200), ("pure", 401)]


@pytest.mark.socket
@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_is_missed_through_middleware(streamed: bool) -> None:
    """Before the first byte, too, and through a function that wraps request and response."""

    async def main() -> None:
        fake = FakeOllama(profile_named("instant"), wall_clock_ns)
        async with running(fake) as front:
            app = create_app(settings(ollama_host=front.base_url), signals=())

            @app.middleware("http")
            async def function(request: Request, call_next: Any) -> Any:
                return await call_next(request)

            async with serving(app) as (url, _):
                raw = RawClient(url)
                await raw.send(prompt(stream=streamed, model="fake:hang-before-headers"))
                await until(lambda: fake.active_calls, "upstream")
                raw.close()
                await until(lambda: not fake.active_calls, "the upstream call is closed")

    run_async(main())


@pytest.mark.socket
def test_who_does_not_read_is_dropped_through_middleware() -> None:
    """The connection behind the server's own `send` is known, whatever stands around us."""

    async def main() -> None:
        fake = FakeOllama(profile_named("instant"), wall_clock_ns)
        async with running(fake) as front:
            limits = {"ollama_host": front.base_url, "send_seconds": 0.2, "buffer_max_chunks": 8}
            app = create_app(settings(**limits), signals=())
            app.add_middleware(CORSMiddleware, allow_origins=["*"])
            async with serving(app) as (url, server):
                raw = RawClient(url, receive_bytes=4096)
                model = "fake:slow"
                await raw.send(prompt(stream=True, model=model), headers=f"origin: {LOCAL}\r\n")
                connections = server.server_state.connections
                await until(lambda: len(connections) == 1, "connected")
                connection: Any = next(iter(connections))
                assert connection.cycle.scope["onestream.abort"] == connection.transport.abort
                raw.close()
                await until(lambda: not fake.active_calls, "the upstream call is closed")

    run_async(main())


@pytest.mark.socket
def test_a_stream_reaches_a_page_of_this_machine() -> None:
    """Streamed as ever, with the headers that let the page read it."""

    async def main() -> None:
        async with stack() as server:
            response = await server.post(prompt(stream=True), headers={"origin": LOCAL})
            assert response.headers[ALLOWED] == LOCAL
            assert "[DONE]" in response.text
            await asyncio.sleep(0)

    run_async(main())
