"""What JARVIS_SESSIONS may say: where the workers share their sessions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

NONE = "none"
_SQLITE = "sqlite"
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_SENTINEL_SCHEMES = ("redis+sentinel://", "rediss+sentinel://")
_SENTINEL_PORT = 26379
# Of the client. Its time limits are settings, and it takes any other name until it connects.
_OPTIONS = ("db", "username", "password", "client_name")
_TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_password",
)


def check(value: str) -> None:
    """Raises ValueError for what names no store. The value may hold a password: it isn't shown."""
    named = sentinels_of(value)
    if named is not None:
        _check_redis(named.url)
        return
    if is_redis(value):
        _check_redis(value)
    elif is_sqlite(value):
        _check_sqlite(value)
    if value in ("", NONE) or is_sqlite(value) or is_redis(value):
        return
    raise ValueError(
        "names no store of sessions; write sqlite, sqlite:/path/to/sessions.sqlite, "
        "redis://host:6379/0, rediss://user:password@host:6379/0, redis+sentinel://…, or none"
    )


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Where Sentinels are, and by which name they know the primary.

    url: of the primary, as it would be at a host of its own: user, password, database, options.
    """

    hosts: list[tuple[str, int]]
    primary: str
    url: str


def sentinels_of(value: str) -> Sentinels | None:
    """None for another store. Raises ValueError."""
    if not value.startswith(_SENTINEL_SCHEMES):
        return None
    scheme, _, rest = value.partition("+sentinel://")
    rest, question, query = rest.partition("?")
    user, at, rest = rest.rpartition("@")
    hosts, _, path = rest.partition("/")
    primary, slash, database = path.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", primary) or not hosts:
        raise ValueError(
            "names Sentinels and not by which name they know the primary; write "
            "redis+sentinel://host:26379,host2:26379/mymaster/0 (in a password @ is %40, / is %2F, "
            "? is %3F)"
        )
    url = f"{scheme}://{user}{at}primary{slash}{database}{question}{query}"
    return Sentinels([_sentinel_at(each) for each in hosts.split(",")], primary, url)


def _sentinel_at(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, _SENTINEL_PORT if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or not port:
        raise ValueError(
            "names a Sentinel without a host, or with a port that is no number from 1 to 65535; "
            "write redis+sentinel://host:26379,host2:26379/mymaster/0"
        )
    return host, port


def _check_redis(value: str) -> None:
    _, _, after = value.partition("://")
    try:
        parts = urlsplit(value)
        # Each of these ends the host in a URL, so that the rest of a password would be a path.
        has_lost_its_user = "@" in after and "@" not in parts.netloc
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        rest = "".join(re.split(r"[/?#]", after, maxsplit=1)[1:])
        has_lost_its_user, port_is_good = "@" in rest, False
    is_path = value.startswith("unix://")
    if (has_lost_its_user and not is_path) or "#" in value:
        raise ValueError(
            "has a user or password with a character that means something else in a URL; "
            "percent-encode it: # is %23, / is %2F, ? is %3F, @ is %40, % is %25"
        )
    if not port_is_good:
        raise ValueError(
            "has no port that is a number from 1 to 65535; write redis://host:6379/0 (in a "
            "password : is %3A, [ is %5B)"
        )
    if not is_path and not re.fullmatch(r"(/[0-9]*)?", parts.path):
        raise ValueError(
            f"names the database {parts.path[1:40]!a}, and one is a number: redis://host:6379/0; "
            f"JARVIS_SESSIONS_PREFIX keeps servers apart by a name"
        )
    _check_options(parts.scheme, parts.query)


def _check_options(scheme: str, query: str) -> None:
    known = _OPTIONS + (_TLS_OPTIONS if scheme == "rediss" else ())
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, option in options.items():
        if name not in known:
            needs = " without TLS (rediss://)" if name in _TLS_OPTIONS else ""
            raise ValueError(
                f"has the option {name[:40]!a}, which means nothing here{needs}; known are "
                f"{', '.join(known)}"
            )
        if name == "db" and not re.fullmatch(r"[0-9]+", option):
            raise ValueError("names a database that is no number; write ?db=0")


def _check_sqlite(value: str) -> None:
    _, _, rest = value.partition(":")
    if re.match("//[^/:]", rest):
        raise ValueError(
            f"names the host {rest[2:42].partition('/')[0]!a}, and a file has none; write "
            f"sqlite:/path/to/sessions.sqlite, or sqlite:///path/to/sessions.sqlite"
        )
    if "?" in rest:
        raise ValueError(
            f"has options ({rest.partition('?')[2][:40]!a}), and a file has none; write "
            f"sqlite:/path/to/sessions.sqlite"
        )
    try:
        path = sqlite_path(value)
    except RuntimeError:
        raise ValueError(
            "begins with the home directory of a user who is unknown; write the whole path: "
            "sqlite:/path/to/sessions.sqlite"
        ) from None
    if path is not None and (":memory:" in value or value.startswith("sqlite:file:")):
        raise ValueError(
            "names no file that workers could share; write sqlite, or "
            "sqlite:/path/to/sessions.sqlite"
        )


def is_sqlite(value: str) -> bool:
    return value == _SQLITE or (value.startswith(f"{_SQLITE}:") and value != f"{_SQLITE}:")


def sqlite_path(value: str) -> Path | None:
    """The path that it names, from the root on: what is logged of it says where to look.

    None for the default. Raises RuntimeError for the home directory of nobody.
    """
    _, _, path = value.partition(":")
    # As in an URL: sqlite:///path is /path, and so is sqlite:////path as SQLAlchemy has it.
    path = re.sub("^/+", "/", path)
    return Path(path).expanduser().absolute() if path else None


def is_redis(value: str) -> bool:
    return value.startswith(_REDIS_SCHEMES) and value not in _REDIS_SCHEMES
