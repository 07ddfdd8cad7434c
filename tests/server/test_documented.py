"""openapi.json tells the truth about keys, errors, streamed answers and headers."""

from __future__ import annotations

import base64
import hashlib
import re
import string
from typing import Any

import h11
import httpx
import pytest

from server.app import create_app
from server.fields import shown
from server.front import METRICS_PATH, OPEN_PATHS
from tests.server.support import run_async, settings

ALLOWED = set(string.ascii_letters + string.digits + "%!#$&'()*+-./:;=?@[]^_`|~")
METHODS = {"get", "post", "put", "delete", "patch"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(settings(), signals=()).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


def test_every_path_that_asks_for_a_key_says_so(document: dict[str, Any]) -> None:
    """A bearer scheme, at all paths but the open ones.

    For the metrics it need not be given: a program of this machine reads them without.
    """
    (scheme,) = document["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    for path, operation in operations(document):
        is_open = path in OPEN_PATHS
        assert ("401" in operation["responses"]) is not is_open, path
        keyed = [{scheme[0]: []}, *([{}] if path == METRICS_PATH else [])]
        assert operation.get("security") == (None if is_open else keyed), path


def test_every_error_has_the_shape_of_its_path(document: dict[str, Any]) -> None:
    """OpenAI's from 400 on, under /api/ Ollama's; FastAPI's own 422 is nowhere."""
    for path, operation in operations(document):
        shape = "OllamaErrorAnswer" if path.startswith("/api/") else "ErrorAnswer"
        for status, response in operation["responses"].items():
            assert status != "422", path
            assert "X-Trace-Id" in response["headers"], (path, status)
            if status[0] in "45":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": f"#/components/schemas/{shape}"}, (path, status)
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    error = schemas[schemas["ErrorAnswer"]["properties"]["error"]["$ref"].rpartition("/")[2]]
    assert error["required"] == ["message", "type", "param", "code"]


def test_a_chat_is_described_as_it_is(document: dict[str, Any]) -> None:
    """Streamed or not, with its session's header, and `{}` is no body of it."""
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "X-Session-Id" in {each["name"] for each in chat["parameters"]}
    for status in ("400", "401", "403", "404", "408", "409", "413", "429", "500", "503", "504"):
        assert status in chat["responses"]
    body = document["components"]["schemas"]["ChatRequest"]
    assert [form["required"] for form in body["oneOf"]] == [["messages"], ["prompt"]]


def test_a_field_that_may_be_left_out_may_be_null(document: dict[str, Any]) -> None:
    """An explicit null is absent, and the document says so."""
    fields = document["components"]["schemas"]["OllamaGenerateRequest"]["properties"]
    assert {"type": "null"} in fields["stream"]["anyOf"]


def test_no_name_of_a_field_breaks_the_header_that_names_it() -> None:
    """X-Ignored-Fields can be sent whatever the names are."""
    names = ["plain", "trailing ", "\r\nx-evil: 1", "é", "\ud800", "", " ", "a,b", 'q"', "x" * 99]
    found = shown(names)
    assert found[0] == "plain"
    value = ", ".join(found)
    h11.Response(status_code=200, headers=[("x-ignored-fields", value)])
    assert len(found) == len(names) - 1
    assert all(set(name) <= ALLOWED for name in found), found


def test_the_page_of_the_endpoints_loads_and_runs_nothing(document: dict[str, Any]) -> None:
    """It has every path and field; its policy allows its one style, and no other page is there."""

    async def main() -> None:
        app = create_app(settings(api_keys="secret"), signals=())
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://far") as http:
                page = await http.get("/docs")
                assert page.status_code == 200
                assert (await http.get("/redoc")).status_code == 401
                for path in ("/docs/", "/docs//"):
                    led = await http.get(path)
                    assert led.status_code == 307
                    assert led.next_request is not None
                    assert led.next_request.url == "http://far/docs"
        for path, _ in operations(document):
            assert f" {path}</h2>" in page.text
        fields = document["components"]["schemas"]["ChatRequest"]["properties"]
        assert all(f"<code>{name}</code>" in page.text for name in fields)
        assert "<td>string or list of string</td>" in page.text
        assert set(re.findall(r'(?:href|src)="([^#"][^"]*)"', page.text)) == {"openapi.json"}
        assert not re.search(r"<script|<link|\sstyle=|\son\w+=|url\(|@import|//", page.text)
        (style,) = re.findall("<style>(.*?)</style>", page.text, re.DOTALL)
        allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = page.headers["content-security-policy"]
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{allowed}'; ")
        assert page.headers["x-content-type-options"] == "nosniff"

    run_async(main())
