"""Nobody comes in without a key, by whatever path, mount, protocol or name of the host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Router

from server.app import create_app
from tests.attack.support import chat, status_of, victim
from tests.limits import HANGS_S
from tests.server.support import run_async, settings

KEYED = ("/v1/models", "/v1/streams", "/v1/streams/x", "/v1/nothing", "/api/tags", "/api/nothing")
# What is the same path to a router of some kind, and what is not.
SPELLINGS = (
    "{}",
    "/{}",
    "//{}",
    "/.{}",
    "/x/..{}",
    "{}/",
    "{}//",
    "{}?x=1",
    "{};x",
    "{}%20",
    "{}%00",
    "{}%2f",
)


def made() -> FastAPI:
    return create_app(settings(api_keys="sekret", ollama_host="127.0.0.1:9"), signals=())


def mounted(*places: str) -> tuple[FastAPI, FastAPI]:
    """Our application below the places, one application in another; the outermost, and ours."""
    ours = made()
    outermost = ours
    for place in reversed(places):
        outer = FastAPI()
        outer.mount(place, outermost)
        outermost = outer
    return outermost, ours


def routed() -> tuple[Any, FastAPI]:
    ours = made()
    return Router([Mount("/r", ours)]), ours


# What is served with our application in it, the root path, and what all paths begin with.
APPS: dict[str, tuple[Callable[[], tuple[Any, FastAPI]], str, str]] = {
    "alone": (mounted, "", ""),
    "root path": (mounted, "/llm", "/llm"),
    "root path that no path has": (mounted, "/llm", ""),
    "root path /v1": (mounted, "/v1", "/v1"),
    "root path /healthz": (mounted, "/healthz", "/healthz"),
    "mounted": (lambda: mounted("/chat"), "", "/chat"),
    "mounted under a root path": (lambda: mounted("/chat"), "/llm", "/llm/chat"),
    "mounted twice": (lambda: mounted("/a", "/b"), "", "/a/b"),
    "mounted as an open path": (lambda: mounted("/healthz"), "", "/healthz"),
    "mounted as /v1": (lambda: mounted("/v1"), "", "/v1"),
    "mounted by Starlette": (routed, "", "/r"),
}


@asynccontextmanager
async def client_of(place: str) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    make, root_path, prefix = APPS[place]
    served, ours = make()
    transport = httpx.ASGITransport(served, root_path=root_path)
    async with (
        ours.router.lifespan_context(ours),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        yield http, prefix


@pytest.mark.parametrize("place", APPS)
def test_no_path_is_open_but_those_that_are_named(place: str) -> None:
    """Without a key every spelling of every path is refused, and no stream is started."""

    async def main() -> None:
        async with client_of(place) as (http, prefix):
            for path in KEYED:
                for spelling in SPELLINGS:
                    # As it stands: httpx would tidy it up.
                    raw = (prefix + spelling.format(path)).encode()
                    url = httpx.URL("http://127.0.0.1").copy_with(raw_path=raw)
                    answer = await http.get(url)
                    assert answer.status_code in (401, 403, 404, 307), (raw, answer.text)
                    assert '"data"' not in answer.text, (raw, answer.text)
            for path in ("/v1/chat/completions", "/v1/streams/x/cancel", "/api/chat"):
                answer = await http.post(prefix + path, json={"prompt": "hello"})
                assert answer.status_code in (401, 404), (path, answer.text)
            answer = await http.post(prefix + "/v1/chat/completions", json={"prompt": "hello"})
            assert answer.status_code == 401

    run_async(main(), HANGS_S)


@pytest.mark.parametrize("place", APPS)
def test_a_key_opens_every_place(place: str) -> None:
    """With the key the same places answer: what is refused above is refused for its key."""

    async def main() -> None:
        async with client_of(place) as (http, prefix):
            answer = await http.get(
                f"{prefix}/v1/streams", headers={"authorization": "Bearer sekret"}
            )
            assert answer.status_code == 200, answer.text

    run_async(main(), HANGS_S)


@pytest.mark.socket
def test_an_upgrade_to_a_websocket_is_no_way_in() -> None:
    """An upgrade without a key is answered as any request without one."""

    async def main() -> None:
        with victim() as server:
            for path in ("/v1/streams", "/v1/chat/completions"):
                raw = await server.connect()
                answer = await raw.exchange(
                    f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade, close\r\n"
                    "upgrade: websocket\r\nsec-websocket-version: 13\r\n"
                    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
                )
                assert status_of(answer) in (401, 403, 404), answer
                assert b'"data"' not in answer

    run_async(main(), HANGS_S)


@pytest.mark.socket
def test_the_known_key_serves_names_of_loopback_only() -> None:
    """With devkey a page that rebinds its name to loopback is refused; loopback's names pass."""

    async def main() -> None:
        with victim() as server:
            strange = (
                "evil.example",
                "127.0.0.1.evil.example",
                "localhost.evil.example",
                "8.8.8.8",
            )
            local = ("127.0.0.1", "localhost", "LOCALHOST", "[::1]", f"localhost:{server.port}")
            for host in (*strange, *local):
                raw = await server.connect()
                answer = await raw.exchange(chat(f"host: {host}"))
                expected = 200 if host in local else 403
                assert status_of(answer) == expected, (host, answer[:300])

    run_async(main(), HANGS_S)
