"""The files of the chat that `GET /` shows to browsers; `page_routes.py` sends them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

INDEX = "index.html"
# By their names; what the page asks for itself is at /page/…, and needs no key.
MEDIA_TYPES = {
    INDEX: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in ("main", "api", "watch", "chat", "outbox", "life", "blocks", "words")
    },
}
PATHS = tuple(f"/page/{name}" for name in MEDIA_TYPES if name != INDEX)


@cache
def content(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
