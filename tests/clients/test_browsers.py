"""A page of another origin in Chromium: what CORS lets it do."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.clients.support import Served, need, served

pytestmark = [pytest.mark.clients, pytest.mark.socket]

PAGE = """<!doctype html><title>page</title><pre id="out"></pre><script>
const url = "URL", headers = {authorization: "Bearer devkey", "content-type": "application/json"};
async function ask(stream) {
  const body = JSON.stringify({model: "fake:normal", prompt: "hello", stream});
  const answer = await fetch(url + "/v1/chat/completions", {method: "POST", headers, body});
  const text = await answer.text();
  return {status: answer.status, whole: text.includes("word39"),
          trace: answer.headers.get("x-trace-id")};
}
async function main() {
  const healthz = (await fetch(url + "/healthz")).status;
  const wrong = (await fetch(url + "/v1/models", {headers: {authorization: "Bearer x"}})).status;
  return {healthz, wrong, plain: await ask(false), streamed: await ask(true)};
}
main().catch((error) => ({error: String(error)}))
  .then((found) => { document.getElementById("out").textContent = JSON.stringify(found); });
</script>"""


@contextmanager
def page(text: str) -> Iterator[int]:
    """The page on a port of its own, which makes it another origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def seen_by_chromium(server: Served, host: str, folder: Path) -> dict[str, object]:
    """What the page's program found; `host` is the name that the page is asked by."""
    with page(PAGE.replace("URL", server.direct_url)) as port:
        command = [
            need("chromium", "Chromium"),
            *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"),
            *("--no-proxy-server", f"--host-resolver-rules=MAP {host} 127.0.0.1"),
            *("--virtual-time-budget=20000", "--dump-dom", f"http://{host}:{port}/"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout + done.stderr[-2000:]
    return dict(json.loads(found[1]))


def assert_all_works(found: dict[str, object]) -> None:
    assert found.get("error") is None, found
    assert (found["healthz"], found["wrong"]) == (200, 401)
    for form in ("plain", "streamed"):
        answer = found[form]
        assert isinstance(answer, dict)
        assert (answer["status"], answer["whole"]) == (200, True)
        assert answer["trace"], "X-Trace-Id is not exposed: no stop button can name the stream"


def test_a_page_on_loopback_may_use_the_server(server: Served, tmp_path: Path) -> None:
    """By default pages of loopback origins may, as with Ollama; refusals can be read as well."""
    assert_all_works(seen_by_chromium(server, "localhost", tmp_path))


def test_a_page_of_a_strange_origin_may_not(server: Served, tmp_path: Path) -> None:
    """A page of any other origin learns nothing."""
    assert "error" in seen_by_chromium(server, "evil.example", tmp_path)


def test_an_origin_that_is_named_may(tmp_path: Path) -> None:
    """JARVIS_CORS_ORIGINS opens the server to an origin; * to all of them."""
    with served(JARVIS_CORS_ORIGINS="*") as server:
        assert_all_works(seen_by_chromium(server, "chat.example", tmp_path))
