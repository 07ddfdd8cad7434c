"""A program: what a server imports after its start-up. Prints the names, one a line.

In a process of its own, since a test has imported nearly everything before. Arguments: the Ollama
client, and the host of Ollama.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server.support import create_app, serving, settings

PROMPTS = [
    b'{"prompt":"x"}',
    b'{"prompt":"x","stream":true}',
    b'{"prompt":"x","model":"fake:error"}',
    b'{"prompt":"x","model":"fake:cut","stream":true}',
    b'{"prompt":1}',
    b"{",
    '{"prompt":"x"}'.encode("utf-16"),
]


async def main(client: str, host: str) -> None:
    fake = FakeOllama(replace(profile_named("instant")), wall_clock_ns)
    async with running(fake) as front:
        address = front.base_url.replace("127.0.0.1", host)
        app = create_app(settings(ollama_host=address, ollama_client=client), signals=())
        async with serving(app) as (url, _):
            before = set(sys.modules)
            for path in ("/healthz", "/readyz", "/v1/models", "/v1/streams", "/nowhere"):
                await ask(url, f"GET {path}", b"")
            for prompt in PROMPTS:
                await ask(url, "POST /v1/chat/completions", prompt)
            print("\n".join(sorted(set(sys.modules) - before)))


async def ask(url: str, what: str, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    head = (
        f"{what} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer devkey\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"connection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await reader.read()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
