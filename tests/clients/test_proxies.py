"""Proxies that buffer or compress: pieces of a stream pass as they come, and leaving passes too."""

from __future__ import annotations

import asyncio
import json
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.clients.support import Served, need, node_program
from tests.server.support import (
    DEVKEY,
    PATIENCE_S,
    Output,
    free_port,
    is_listening,
    run_async,
    until,
)

pytestmark = [pytest.mark.clients, pytest.mark.socket]

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {more}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {url}; }} }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  {more}
  reverse_proxy {url}
}}
"""
HAPROXY = """
global
  maxconn 100
defaults
  mode http
  {more}
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen proxy
  bind 127.0.0.1:{port}
  server onestream {address}
"""


@contextmanager
def running(command: list[str], port: int | None = None) -> Iterator[str]:
    """A proxy's process once it listens; yields its address."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        # It is read all the time: a proxy may not come to wait for somebody to take its log.
        output = Output(child)
        port = port or int(output.wait_for("listens on").split()[-1])

        async def listens() -> None:
            await until(lambda: is_listening(port) or child.poll() is not None, "it listens", 30)

        run_async(listens())
        assert child.poll() is None, output.lines
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate()


def nginx(url: str, folder: Path, more: str) -> tuple[list[str], int]:
    port, file = free_port(), folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, port=port, url=url, more=more))
    return [need("nginx", "nginx"), "-p", str(folder), "-c", str(file)], port


def caddy(url: str, folder: Path, more: str) -> tuple[list[str], int]:
    port, file = free_port(), folder / "Caddyfile"
    file.write_text(CADDY.format(port=port, url=url, more=more))
    return [need("caddy", "Caddy"), "run", "--adapter", "caddyfile", "--config", str(file)], port


def haproxy(url: str, folder: Path, more: str) -> tuple[list[str], int]:
    port, file = free_port(), folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, address=url.removeprefix("http://"), more=more))
    return [need("haproxy", "HAProxy"), "-db", "-f", str(file)], port


def express(url: str, folder: Path, more: str) -> tuple[list[str], None]:
    return [*node_program("compressing_proxy.mjs"), url], None


PLAIN_ENCODE = "encode zstd gzip"
ENCODE = "encode {\n gzip\n match {\n header Content-Type application/json*\n }\n }"
GZIP = "gzip on; gzip_proxied any; gzip_types *; gzip_min_length 1;"
PROXIES: dict[str, tuple[Callable[..., tuple[list[str], int | None]], str]] = {
    "nginx with its defaults": (nginx, ""),
    "nginx with gzip": (nginx, GZIP),
    "caddy": (caddy, ""),
    # Streams are left out: test_caddys_plain_encode_loses_nothing says why.
    "caddy with encode of JSON": (caddy, ENCODE),
    # Without it a client that closes counts as one that only says no more.
    "haproxy with abortonclose": (haproxy, "option abortonclose"),
    "haproxy that compresses": (
        haproxy,
        "option abortonclose\n  compression algo gzip\n  compression type application/json",
    ),
    "express with compression": (express, ""),
}


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request: pytest.FixtureRequest, server: Served, tmp_path_factory: pytest.TempPathFactory):
    made, more = PROXIES[request.param]
    folder = tmp_path_factory.mktemp("proxy")
    folder.chmod(0o755)
    command, port = made(server.direct_url, folder, more)
    with ExitStack() as stack:
        yield stack.enter_context(running(command, port))


def unpacked(encoding: str, data: bytes) -> bytes:
    """What can be read of a compressed beginning."""
    if encoding == "gzip":
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data)
    assert encoding == "", f"asked for gzip, came {encoding}"
    return data


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_pieces_pass_while_the_model_is_silent(proxy: str, server: Served, encoding: str) -> None:
    """The first pieces are there while the model hangs, so the proxy did not wait for the end."""

    async def main() -> None:
        body = {"model": "fake:hang-midstream", "prompt": "hello", "stream": True}
        headers = {**DEVKEY, "accept-encoding": encoding, "x-session-id": "proxied"}
        async with (
            httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http,
            http.stream(
                "POST", f"{proxy}/v1/chat/completions", json=body, headers=headers
            ) as answer,
        ):
            assert answer.status_code == 200
            data = b""
            async for part in answer.aiter_raw():
                data += part
                if b"word2" in unpacked(answer.headers.get("content-encoding", ""), data):
                    break
        # The client has left: its leaving reaches the model through the proxy.
        await until(lambda: not server.fake.active_calls, "the upstream call is over")

    run_async(main())


def test_a_client_that_leaves_before_the_answer_is_noticed(proxy: str, server: Served) -> None:
    """It has read all there was, so that its connection ends in order; nothing is sent to it."""

    async def main() -> None:
        body = json.dumps({"model": "fake:hang-before-headers", "prompt": "hello"})
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"authorization: {DEVKEY['authorization']}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        _, writer = await asyncio.open_connection("127.0.0.1", int(proxy.rpartition(":")[2]))
        writer.write(f"{head}{body}".encode())
        await until(lambda: server.fake.active_calls, "the prompt is with the model")
        writer.close()
        await until(lambda: not server.fake.active_calls, "the upstream call is over")

    run_async(main())


def test_a_whole_answer_and_an_error_pass(proxy: str) -> None:
    """One object with its usage, and an error with its own status and sentence."""
    with httpx.Client(trust_env=False, timeout=30, headers=DEVKEY) as http:
        ask = f"{proxy}/v1/chat/completions"
        whole = http.post(ask, json={"model": "fake:normal", "prompt": "hello"})
        assert whole.json()["usage"]["completion_tokens"] == 41
        failed = http.post(ask, json={"model": "fake:missing", "prompt": "hello"})
        assert failed.status_code == 404
        assert failed.json()["error"]["code"] == "model_not_found"


def test_caddys_plain_encode_loses_nothing(server: Served, tmp_path: Path) -> None:
    """What it compresses it holds back, and gives whole; a client that takes no gzip gets pieces.

    Debian's Caddy (2.6.2) knows no `no-transform`, and never flushes what compresses: of a stream
    whose beginning is 512 bytes or more its client sees nothing for some thousand bytes.
    """
    tmp_path.chmod(0o755)
    command, port = caddy(server.direct_url, tmp_path, PLAIN_ENCODE)
    with running(command, port) as url, httpx.Client(trust_env=False, timeout=PATIENCE_S) as http:
        ask = f"{url}/v1/chat/completions"
        for encoding in ("gzip", "identity"):
            headers = {**DEVKEY, "accept-encoding": encoding}
            body = {"model": "fake:normal", "prompt": "hello", "stream": True}
            answer = http.post(ask, json=body, headers=headers)
            assert answer.text.endswith("data: [DONE]\n\n")
            assert "word39" in answer.text
        body = {"model": "fake:hang-midstream", "prompt": "hello", "stream": True}
        with http.stream("POST", ask, json=body, headers=headers) as answer:
            assert any("word2" in line for line in answer.iter_lines())
