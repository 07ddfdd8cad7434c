"""`GET /docs`: openapi.json as one page to read, which loads nothing and runs nothing.

FastAPI's own pages load their scripts from another site. Here they would run beside the chat of
`GET /`, whose tab keeps a key: who serves those scripts could read it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

_Object = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
body { max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; }
h2 { font: 600 1.05rem ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
section { border-top: 1px solid GrayText; padding: 0.4rem 0; }
nav ul { columns: 20rem; padding-left: 1.2rem; }
code { font: 0.92em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 0.4rem 0 0.8rem; }
th, td { text-align: left; vertical-align: top; padding: 0.15rem 1.2rem 0.15rem 0; }
"""
# One page without a second request: what is allowed is this very style.
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def page_of(document: _Object) -> str:
    """The whole page of an OpenAPI document."""
    title = html.escape(document["info"]["title"])
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    links = "".join(
        f'<li><a href="#{_anchor(name)}"><code>{html.escape(name)}</code></a></li>'
        for name, _ in operations
    )
    schemas = document["components"]["schemas"]
    sections = "".join(
        f'<section id="{_anchor(name)}"><h2>{html.escape(name)}</h2>'
        f"{''.join(_parts(operation, schemas))}</section>"
        for name, operation in operations
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: endpoints</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}: endpoints</h1>"
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>. '
        "A key is sent as the header <code>Authorization: Bearer …</code>.</p>"
        f"<nav><ul>{links}</ul></nav><main>{sections}</main></body></html>"
    )


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _parts(operation: _Object, schemas: _Object) -> Iterator[str]:
    for paragraph in operation.get("description", "").split("\n\n"):
        yield f"<p>{_prose(paragraph)}</p>"
    security = operation.get("security", [])
    yield f"<p>{'Without a key.' if not security else _asked_key(security)}</p>"
    if parameters := operation.get("parameters"):
        rows = [
            (each["name"], each["in"], _prose(each.get("description", ""))) for each in parameters
        ]
        yield _table("Parameters", rows)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = _resolved(content["schema"], schemas)
        for paragraph in schema.get("description", "").split("\n\n"):
            yield f"<p>{_prose(paragraph)}</p>"
        required = schema.get("required", ())
        yield _table(
            "Fields of the body",
            [
                (name, html.escape(_type_of(field)), "required" if name in required else "")
                for name, field in schema.get("properties", {}).items()
            ],
        )
    answers = [
        (status, "", _prose(answer["description"]))
        for status, answer in operation["responses"].items()
    ]
    yield _table("Answers", answers)


def _asked_key(security: list[_Object]) -> str:
    return "Without a key for programs of this machine." if {} in security else "With a key."


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    """Of names, and of markup beside them."""
    body = "".join(
        f'<tr><th scope="row"><code>{html.escape(name)}</code></th>'
        f"<td>{kind}</td><td>{what}</td></tr>"
        for name, kind, what in rows
    )
    return f"<details><summary>{title}</summary><table>{body}</table></details>"


def _prose(text: str) -> str:
    """Text as it is written here: names of code stand in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _resolved(schema: _Object, schemas: _Object) -> _Object:
    found: _Object = schemas[_name(schema)] if "$ref" in schema else schema
    return found


def _name(schema: _Object) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _type_of(schema: _Object) -> str:
    """In a few words: `text or list of text`. That null is as good as absent holds everywhere."""
    if "$ref" in schema:
        return _name(schema)
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kinds = [_type_of(each) for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    if kinds:
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    kind = str(schema.get("type", "anything"))
    return f"list of {_type_of(schema.get('items', {}))}" if kind == "array" else kind
