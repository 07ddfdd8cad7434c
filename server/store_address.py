"""What JARVIS_SESSIONS may say: where the workers share their sessions."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

NONE = "none"
_SQLITE = "sqlite"
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_SENTINEL = "sentinel"


def check(value: str) -> None:
    """Raises ValueError for what names no store. The value may hold a password: it isn't shown."""
    scheme = value.partition(":")[0]
    if _SENTINEL in scheme:
        raise ValueError(
            "names Sentinels, which are not supported; name the primary itself, by an address that "
            "follows it (redis://host:port): after a fail-over running streams go on, and new "
            "prompts get 503 until that address leads to the new primary"
        )
    if is_redis(value) and not _has_good_port(value):
        raise ValueError("has no port that is a number; write redis://host:6379/0")
    if value in ("", NONE) or is_sqlite(value) or is_redis(value):
        return
    raise ValueError(
        "names no store of sessions; write sqlite, sqlite:/path/to/sessions.sqlite, "
        "redis://host:6379/0, rediss://user:password@host:6379/0, or none"
    )


def _has_good_port(value: str) -> bool:
    try:
        urlsplit(value).port  # noqa: B018
    except ValueError:
        return False
    return True


def is_sqlite(value: str) -> bool:
    return value == _SQLITE or (value.startswith(f"{_SQLITE}:") and value != f"{_SQLITE}:")


def sqlite_path(value: str) -> Path | None:
    """The path that it names; None for the default."""
    _, _, path = value.partition(":")
    # As in an URL: sqlite:///path is /path.
    path = path.removeprefix("//")
    return Path(path).expanduser() if path else None


def is_redis(value: str) -> bool:
    return value.startswith(_REDIS_SCHEMES) and value not in _REDIS_SCHEMES
