"""Who may call: Bearer keys, compared in constant time, and never shown or logged."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from server.errors import ApiError
from server.loopback import is_loopback
from server.settings import DEVKEY, Settings, is_key, split_keys

SESSION_ID_MAX_CHARS = 128
# No space and no control character: a session id is one field of a log line.
_SESSION_ID = re.compile(rf"[!-~]{{1,{SESSION_ID_MAX_CHARS}}}\Z")
SESSION_ID_DEFAULT = "default"
# Room for 10,000 keys and a remark to each.
_KEYS_FILE_MAX_BYTES = 1024 * 1024
# To listen on all of the machine's.
EVERY_ADDRESS = ("", "0.0.0.0", "::")


class StartRefused(Exception):
    """The server would be open to strangers, or its keys cannot be read."""


def read_keys(settings: Settings) -> tuple[str, ...]:
    """The configured keys, in order; none if there are none. Raises StartRefused."""
    keys = split_keys(settings.api_keys)
    path = settings.api_keys_file
    if path is None:
        return keys
    for number, line in enumerate(_lines_of(path), 1):
        if line and not line.startswith("#"):
            if not is_key(line):
                raise StartRefused(
                    f"JARVIS_API_KEYS_FILE={path}: the key in line {number} is not printable "
                    f"ASCII without a space, so no client could send it"
                )
            keys += (line,)
    if not keys:
        raise StartRefused(
            f"JARVIS_API_KEYS_FILE={path} holds no key; write one per line, or unset it to use "
            f"{DEVKEY!r} on loopback"
        )
    return keys


def _lines_of(path: Path) -> list[str]:
    try:
        # To open a pipe would wait for who writes it.
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        if path.stat().st_size > _KEYS_FILE_MAX_BYTES:
            raise OSError(f"it is longer than {_KEYS_FILE_MAX_BYTES} bytes")
        # With or without the mark that some editors put in front.
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise StartRefused(
            f"the keys in JARVIS_API_KEYS_FILE={path} cannot be read ({exc}); name a text file "
            f"with one key per line"
        ) from exc


def check_address(keys: Sequence[str], host: str | None) -> None:
    """Raises StartRefused for an address that others reach while no key is configured."""
    if not keys and not is_loopback(host):
        raise StartRefused(
            f"will not listen on {host or 'every address'}: no key is configured, so anybody who "
            f"reaches it could use {DEVKEY!r}. Set JARVIS_API_KEYS (comma "
            f"separated) or JARVIS_API_KEYS_FILE, or listen on 127.0.0.1"
        )


def check_upstream(settings: Settings, host: str | None, port: int) -> None:
    """Raises StartRefused where Ollama's address is the one that this server listens on.

    `ollama` takes OLLAMA_HOST for where to ask, so that it may well name this server.
    """
    named = urlsplit(settings.ollama_host)
    is_here = named.hostname == host or (
        is_loopback(named.hostname) and (is_loopback(host) or host in EVERY_ADDRESS)
    )
    if is_here and named.port == port:
        raise StartRefused(
            f"OLLAMA_HOST names {settings.ollama_host}, which is this server's own address: each "
            f"prompt would come back as another one; set JARVIS_OLLAMA_HOST to where Ollama itself "
            f"listens (http://127.0.0.1:11434, if it says nothing else)"
        )


class Keys:
    """The keys. The owner of what a key's requests make is `key<number>` in one process.

    has_store: what is kept outlives this list of keys, and other workers have lists of their own,
    so that a place in it says nothing: the owner is then named by a digest of the key.
    """

    def __init__(self, keys: Sequence[str], *, has_store: bool = False) -> None:
        self.is_devkey = not keys
        self._digests = [_digest(key.encode()) for key in keys or (DEVKEY,)]
        # In their order.
        self._owners = [f"key{number}" for number in range(1, len(self._digests) + 1)]
        if has_store:
            self._owners = [_owner_in_store(key) for key in keys] or [DEVKEY]
        self._are_apart = has_store or len(self._digests) > 1

    def owner(self, authorization: str | None) -> str:
        """Whose key an Authorization header carries. Raises ApiError (401)."""
        digest = _digest(_key_in(authorization).encode("utf-8", "surrogateescape"))
        # Every key is compared, so the time doesn't reveal which one was nearly right.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise unauthorized("the key in the Authorization header is not known here")
        return self._owners[matches.index(True)]

    def namespace(self, owner: str, session_id: str) -> str:
        """The session as the registry knows it: no two keys share one (S6).

        With a single key there is nothing to keep apart, and the logs show the client's own name.
        In a store there may be those of other keys, past and to come.
        """
        return f"{owner}/{session_id}" if self._are_apart else session_id


def check_session_id(session_id: str, param: str) -> str:
    """The session id, if it may be one. Raises ApiError (400)."""
    if not _SESSION_ID.match(session_id):
        raise ApiError(
            400,
            "invalid_session_id",
            f"{param}: a session id has 1 to {SESSION_ID_MAX_CHARS} printable ASCII characters "
            f"and no space; {_what_it_has(session_id)}",
            param=param,
        )
    return session_id


def _key_in(authorization: str | None) -> str:
    """What an Authorization header carries. Raises ApiError (401)."""
    if not authorization:
        raise unauthorized("the Authorization header is missing; send `Bearer <key>`")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        # The first word is not shown: where the scheme was forgotten, it is a key.
        raise unauthorized(
            "the Authorization header has another scheme than Bearer, such as Basic, or none; "
            "send `Bearer <key>`"
        )
    if not key.strip():
        raise unauthorized("no key stands behind Bearer in the Authorization header")
    return key.strip()


def _what_it_has(session_id: str) -> str:
    if not session_id:
        return "this one is empty: leave it out to name none"
    return f"this one has {len(session_id)}: {session_id[:40]!a}"


def _digest(key: bytes) -> bytes:
    # Of one length, since compare_digest reveals different lengths.
    return hashlib.sha256(key).digest()


def _owner_in_store(key: str) -> str:
    # Not the digest that a key is recognized by: this one is in log lines and in the store.
    return f"key-{hashlib.sha256(b'onestream owner ' + key.encode()).hexdigest()[:16]}"


def unauthorized(message: str) -> ApiError:
    """The answer to a request without a valid key."""
    return ApiError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
