"""Nobody gets in where they don't belong: by whatever path, mount or address a request comes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Scope

from server.app import create_app
from server.errors import ApiError
from server.front import OPEN_PATHS, owner_of
from server.loopback import stranger_in
from server.routes import router
from tests.server.support import error_of, run_async, settings

pytestmark = pytest.mark.once

KEY = {"authorization": "Bearer alice-secret"}
# As a server behind a proxy has it: in front of `path`, or, where it is not uvicorn, not.
ROOTS = ("", "/llm", "/llm/", "/", "/v1", "/v1/models", "/healthz", "/a/b")
PATHS = (
    ("GET", "/v1/models"),
    ("HEAD", "/v1/models"),
    ("OPTIONS", "/v1/chat/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/streams"),
    ("GET", "/v1/streams/healthz"),
    ("POST", "/v1/streams/x/cancel"),
    ("GET", "/v1%2fmodels"),
    ("GET", "/%76%31/models"),
    ("GET", "//v1/models"),
    ("GET", "/v1/models/"),
    ("GET", "/healthz/"),
    ("GET", "/healthz/../v1/models"),
    ("GET", "/healthz%2f..%2fv1/models"),
    ("GET", "/"),
    ("GET", ""),
)


def mounted(*prefixes: str) -> Callable[[FastAPI], FastAPI]:
    """The application in one that has it there; several prefixes: at each of them."""

    def mount(inner: FastAPI) -> FastAPI:
        outer = FastAPI()
        for prefix in prefixes:
            outer.mount(prefix, inner)
        return outer

    return mount


def nested(inner: FastAPI) -> FastAPI:
    return mounted("/outer")(mounted("/inner")(inner))


def with_root_path_of_its_own(inner: FastAPI) -> FastAPI:
    inner.root_path = "/own"
    return inner


def below_a_state_of_its_own(inner: FastAPI) -> Any:
    """A program around it that has a state with an owner in it."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await inner({**scope, "state": {"owner": "key1"}}, receive, send)

    return app


ARRANGEMENTS = {
    "alone": (lambda inner: inner, ("",)),
    "mounted": (mounted("/chat"), ("/chat",)),
    "mounted at its own prefix": (mounted("/v1"), ("/v1",)),
    "mounted at an open path": (mounted("/healthz"), ("/healthz",)),
    "mounted twice": (mounted("/one", "/two"), ("/one", "/two")),
    "nested": (nested, ("/outer/inner",)),
    "with a root path of its own": (with_root_path_of_its_own, ("", "/own")),
    "below a state": (below_a_state_of_its_own, ("",)),
}


@asynccontextmanager
async def arranged(name: str) -> AsyncIterator[tuple[Any, tuple[str, ...]]]:
    arrange, prefixes = ARRANGEMENTS[name]
    inner = create_app(settings(api_keys="alice-secret"), signals=())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(inner.router.lifespan_context(inner))
        yield arrange(inner), prefixes


async def ask(app: Any, method: str, path: str, root: str = "", **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        return await http.request(method, path, **more)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_no_path_leads_around_the_keys(name: str) -> None:
    """Without a key nothing but what is open answers, whatever root path or mount is around it."""

    async def main() -> None:
        async with arranged(name) as (app, prefixes):
            cases = itertools.product(ROOTS, (True, False), ("", *prefixes), PATHS)
            for root, is_in_path, prefix, (method, path) in cases:
                whole = (root if is_in_path else "") + prefix + path
                answer = await ask(app, method, whole, root)
                seen = f"{method} {whole} with root path {root!r}: {answer.status_code}"
                # By the front, before anything of the body is read.
                is_told = answer.status_code == 401 and (
                    method == "HEAD" or "Authorization header" in answer.text
                )
                # 404 without our error: the program around it has no such path.
                is_outside = answer.status_code in (307, 404) and "error" not in answer.text
                # HEAD answers as GET does, but for the text.
                opened = await ask(app, "GET", whole, root) if method == "HEAD" else answer
                is_open = "ok" in opened.text or opened.text.startswith("Ollama is running")
                assert is_told or is_outside or is_open, seen

    run_async(main())


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_the_key_is_asked_for_and_serves_below_every_mount(name: str) -> None:
    """An endpoint answers 401 without a key and 200 with one; what is open needs none."""

    async def main() -> None:
        async with arranged(name) as (app, prefixes):
            for root, prefix in itertools.product(("", "/llm", "/llm/"), prefixes):
                # Not for a root path of FastAPI's own, which goes before the server's.
                before = "" if name == "with a root path of its own" else root
                path = before + prefix
                keyless = await ask(app, "GET", f"{path}/v1/streams", root)
                assert (keyless.status_code, error_of(keyless)["code"]) == (401, "invalid_api_key")
                keyed = await ask(app, "GET", f"{path}/v1/streams", root, headers=KEY)
                assert keyed.json() == {"object": "list", "data": []}
                assert (await ask(app, "GET", f"{path}/healthz", root)).json()["status"] == "ok"

    run_async(main())


def test_every_route_is_closed_unless_it_is_named() -> None:
    """The endpoints themselves demand an owner, so that no front that errs opens one."""

    async def main() -> None:
        closed = {route.path for route in router.routes}  # type: ignore[attr-defined]
        assert closed
        assert not closed & OPEN_PATHS
        without_a_front = FastAPI()
        without_a_front.include_router(router)
        for route in router.routes:
            path = route.path.replace("{trace_id}", "x")  # type: ignore[attr-defined]
            for method in route.methods:  # type: ignore[attr-defined]
                with pytest.raises(ApiError) as caught:
                    await ask(without_a_front, method, path, json={"prompt": "hello"})
                assert caught.value.status == 401

    run_async(main())


def test_an_owner_is_a_name() -> None:
    """What is no name of a key's owner lets nobody in."""

    async def main() -> None:
        for state in ({}, {"owner": None}, {"owner": 1}):
            with pytest.raises(ApiError) as caught:
                await owner_of(Request({"type": "http", "state": state}))
            assert caught.value.status == 401
        assert await owner_of(Request({"type": "http", "state": {"owner": "key1"}})) == "key1"

    run_async(main())


def test_a_websocket_is_refused_before_any_route() -> None:
    """An endpoint that somebody adds as a websocket is no way around the keys."""

    async def main() -> None:
        async with arranged("alone") as (app, _):

            @app.websocket("/v1/ws")
            async def reached(websocket: Any) -> None:
                raise AssertionError("reached")

            sent: list[Message] = []

            async def receive() -> Message:
                return {"type": "websocket.connect"}

            async def send(message: Message) -> None:
                sent.append(message)

            await app(
                {"type": "websocket", "path": "/v1/ws", "headers": [], "state": {}}, receive, send
            )
            assert [message["type"] for message in sent] == ["websocket.close"]

    run_async(main())


# ---- devkey ---------------------------------------------------------------------------------


def scope_of(
    server: Any = ("127.0.0.1", 8000), client: Any = ("127.0.0.1", 50000), **headers: str
) -> Scope:
    raw = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return {"type": "http", "server": server, "client": client, "headers": raw}


@pytest.mark.parametrize(
    "scope",
    [
        scope_of(),
        scope_of(("::1", 8000, 0, 0), ("::1", 50000)),
        scope_of(("::ffff:127.0.0.1", 8000), ("::ffff:127.0.0.1", 50000)),
        scope_of(("/run/x.sock", None), None),
        scope_of(("x.sock", None), ("", 0)),
        scope_of(client=None),
        *[
            scope_of(host=host)
            for host in (
                "localhost",
                "LOCALHOST:8000",
                "127.0.0.1:8000",
                "[::1]:8000",
                "a.localhost",
                "localhost.",
                "a.localhost.:8000",
            )
        ],
        scope_of(origin="http://localhost:5173"),
        scope_of(x_forwarded_for="127.0.0.1, ::1"),
        scope_of(forwarded='for="[::1]:4711";proto=http, for=127.0.0.1:80'),
        scope_of(forwarded="for=127.0.0.1;host=localhost:8000;by=127.0.0.1"),
        scope_of(x_forwarded_host="localhost:8000", x_client_ip="[::1]:4711", true_client_ip="::1"),
        scope_of(via="1.1 localhost (nginx), HTTP/1.1 127.0.0.1:80"),
        scope_of(x_forwarded_proto="https", x_forwarded_port="443", x_real_name="a"),
    ],
)
def test_this_machine_is_no_stranger(scope: Scope) -> None:
    """Loopback, a Unix socket, and what browsers and proxies of this machine send."""
    assert stranger_in(scope) is None


@pytest.mark.parametrize(
    ("scope", "shown"),
    [
        (scope_of(("192.168.1.5", 8000)), "192.168.1.5"),
        (scope_of(("::ffff:192.168.1.5", 8000)), "192.168.1.5"),
        (scope_of(None), "does not tell"),
        (scope_of(client=("10.0.0.9", 50000)), "10.0.0.9"),
        *[
            (scope_of(host=host), repr(host))
            for host in (
                "evil.example",
                "evil.example:8000",
                "127.0.0.1.evil.example",
                "127.0.0.1@evil.example",
                "localhost.evil.example",
                "192.168.1.5",
                "[::2]",
                "[",
                "",
                "/run/x.sock",
                "x:/run",
            )
        ],
        (scope_of(origin="http://evil.example"), "evil.example"),
        (scope_of(origin="null"), "null"),
        (scope_of(x_forwarded_for="203.0.113.9"), "203.0.113.9"),
        (scope_of(x_forwarded_for="127.0.0.1, 203.0.113.9"), "203.0.113.9"),
        (scope_of(x_real_ip="203.0.113.9"), "203.0.113.9"),
        (scope_of(forwarded="for=203.0.113.9:1;by=127.0.0.1"), "203.0.113.9"),
        (scope_of(forwarded='proto=https;For="[2001:db8::1]"'), "2001:db8::1"),
        (scope_of(forwarded="for=127.0.0.1;host=evil.example"), "evil.example"),
        (scope_of(forwarded="for=unknown"), "unknown"),
        (scope_of(host="localhost.."), "localhost.."),
        (scope_of(via="1.1 127.0.0.1, 1.1 evil.example:80 (x)"), "evil.example"),
        (scope_of(via="evil.example"), "evil.example"),
        *[
            (scope_of(**{name: f"127.0.0.1, {said}"}), said)
            for name, said in (
                ("x_forwarded_host", "evil.example"),
                ("x_forwarded_server", "evil.example"),
                ("x_original_forwarded_for", "203.0.113.9"),
                ("x_original_host", "evil.example"),
                ("cf_connecting_ip", "203.0.113.9"),
                ("cf_connecting_ipv6", "2001:db8::1"),
                ("true_client_ip", "203.0.113.9"),
                ("x_client_ip", "203.0.113.9:1"),
                ("client_ip", "203.0.113.9"),
                ("fastly_client_ip", "203.0.113.9"),
                ("fly_client_ip", "203.0.113.9"),
                ("x_envoy_external_address", "203.0.113.9"),
                ("x_cluster_client_ip", "203.0.113.9"),
                ("x_azure_clientip", "203.0.113.9"),
                ("cloudfront_viewer_address", "203.0.113.9:443"),
                ("x_remote_addr", "203.0.113.9"),
            )
        ],
    ],
)
def test_a_stranger_is_seen(scope: Scope, shown: str) -> None:
    """By the address, by the name that a browser was told, or by what a proxy says."""
    assert shown in (stranger_in(scope) or "")


def test_devkey_serves_no_page_from_elsewhere() -> None:
    """A page that rebinds its own name to 127.0.0.1 gets 403 with devkey; with a key it may."""

    async def main() -> None:
        for keys, key, status in (("", "devkey", 403), ("alice-secret", "alice-secret", 200)):
            app = create_app(settings(api_keys=keys), signals=())
            async with app.router.lifespan_context(app):
                headers = {"authorization": f"Bearer {key}", "host": "evil.example"}
                answer = await ask(app, "GET", "/v1/streams", headers=headers)
                assert answer.status_code == status, answer.text
                if status == 403:
                    assert error_of(answer)["code"] == "devkey_on_loopback_only"
                    assert "JARVIS_API_KEYS" in error_of(answer)["message"]

    run_async(main())
