"""Clients that speak HTTP in ways of their own: curl, Java, HTTP/1.0, openai-go's reader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.clients.support import HERE, Served, need, run_program, served
from tests.server.support import Output, address_in, process

pytestmark = [pytest.mark.clients, pytest.mark.socket]

BODY = json.dumps({"model": "fake:normal", "prompt": "hello"})
STREAMED = json.dumps({"model": "fake:normal", "prompt": "hello", "stream": True})
SILENT = json.dumps({"model": "fake:pause", "prompt": "hello", "stream": True})


def curl(url: str, *options: str, body: str | None = BODY) -> str:
    """What curl prints, headers included."""
    command = [
        *(need("curl", "curl"), "-sS", "-N", "-i", "--noproxy", "*", "--max-time", "30"),
        *("-H", "Authorization: Bearer devkey", "-H", "Content-Type: application/json"),
        *options,
        *(() if body is None else ("-d", body)),
        url if body is None else f"{url}/v1/chat/completions",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def with_httptools() -> Iterator[str]:
    """The server under plain uvicorn with httptools, as `uvicorn[standard]` has it."""
    pytest.importorskip("httptools", reason="httptools is not installed")
    with served() as one:
        environment = {"OLLAMA_HOST": one.ollama_url}
        command = ("-m", "uvicorn", "server.app:app", "--port", "0", "--http", "httptools")
        with process(*command, **environment) as child:
            line = Output(child).wait_for("Uvicorn running on")
            yield address_in(line)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--http1.0",),
        ("--http2",),
        ("-H", "Expect: 100-continue"),
        ("-H", "Transfer-Encoding: chunked"),
        ("--compressed",),
    ],
    ids=lambda options: " ".join(options) or "plain",
)
@pytest.mark.parametrize("body", [BODY, STREAMED], ids=["whole", "streamed"])
def test_curl_gets_the_whole_answer(server: Served, options: tuple[str, ...], body: str) -> None:
    """HTTP/1.0, an offer of h2c, Expect, chunked bodies: the answer is the same."""
    found = curl(server.direct_url, *options, body=body)
    assert " 200" in found
    assert "word39" in found


def test_a_probe_by_head_is_answered(server: Served) -> None:
    """Uptime monitors ask by HEAD."""
    assert " 200" in curl(f"{server.direct_url}/healthz", "--head", body=None)


def test_an_offer_of_h2c_is_declined_under_httptools(with_httptools: str) -> None:
    """With uvicorn[standard] installed, an offer of h2c costs neither body nor answer."""
    assert "word39" in curl(with_httptools, "--http2")


def test_java_gets_both_forms(server: Served) -> None:
    """Java's own client offers h2c and keeps the connection for the second prompt."""
    found = run_program(need("java", "Java"), str(HERE / "java/Plain.java"), server.direct_url)
    assert found == [{"status": 200, "whole": True}] * 2


def test_a_reader_that_takes_each_blank_line_for_a_message_sees_no_ping(server: Served) -> None:
    """openai-go up to 3.42 does so, and fails on an empty one: between blank lines is JSON."""
    found = curl(server.direct_url, body=SILENT).replace("\r\n", "\n")
    head, _, stream = found.partition("\n\n")
    assert " 200" in head
    assert ": ping" in stream
    messages = []
    for block in stream.split("\n\n"):
        data = "".join(
            line.removeprefix("data:").strip()
            for line in block.split("\n")
            if line.startswith("data:")
        )
        if block:
            assert data, f"a message without data: {block!r}"
            messages.append(data)
    assert messages[-1] == "[DONE]"
    assert all(json.loads(each) for each in messages[:-1])
