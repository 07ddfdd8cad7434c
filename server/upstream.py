"""The address of Ollama, and the credentials for it, which are never part of the address."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit

_FORMS = (
    "write host, host:port, http://host:port or https://host/path in OLLAMA_HOST or "
    "JARVIS_OLLAMA_HOST, with user:password@ before the host if it asks for that"
)


def ollama_address(text: str) -> str:
    """`scheme://host:port/path` by the rules of Ollama's own OLLAMA_HOST, without user info.

    `Host` in Ollama's envconfig/config.go: without a scheme it is http on port 11434; an explicit
    http:// means 80, https:// 443; ollama.com alone is https. 0.0.0.0 and :: are addresses to
    listen on, so loopback is connected to. The ValueError for what cannot be read shows no user
    info.
    """
    return _read(text)[0]


def user_info(text: str) -> str:
    """`user:password` of such an address, as it is sent; empty if it has none."""
    return _read(text)[1]


def basic_authorization(info: str) -> str:
    """The header's value for `user:password`."""
    user, separator, password = info.partition(":")
    plain = f"{unquote(user)}{separator or ':'}{unquote(password)}"
    return f"Basic {base64.b64encode(plain.encode()).decode('ascii')}"


def _read(text: str) -> tuple[str, str]:
    text = text.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest, port_default = "http", text, 11434
        if text.rstrip("/") == "ollama.com":
            scheme, port_default = "https", 443
    else:
        port_default = {"http": 80, "https": 443}.get(scheme, 0)
    rest = rest.rstrip("/")
    # A password may hold a slash or an @ that should have been escaped.
    info, at, rest = rest.rpartition("@")
    authority, slash, path = rest.partition("/")
    if authority.count(":") > 1 and not authority.startswith("["):
        authority = f"[{authority}]"
    typed = f"{scheme}{separator}" if separator else ""
    shown = f"{typed}{at and '…@'}{authority}{slash}{path}"
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname or "127.0.0.1", parts.port or port_default
    except ValueError:
        port = 0
    if not port or parts.query or parts.fragment or "?" in path or "#" in path:
        raise ValueError(f"{shown!r} is no address of Ollama; {_FORMS}")
    if not authority.isprintable() or " " in rest or not rest.isascii():
        raise ValueError(f"{shown!a} is no address of Ollama; {_FORMS}")
    if path in ("v1", "api") or path.endswith(("/v1", "/api")):
        raise ValueError(
            f"{shown!r} in OLLAMA_HOST is the address of a part of Ollama; leave "
            f"/{path.rpartition('/')[2]} out"
        )
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}{slash}{path}", info
