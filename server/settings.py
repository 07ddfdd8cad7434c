"""Every limit and every address of the server: one environment variable each, prefix `JARVIS_`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, PrivateAttr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server import store_address
from server.upstream import basic_authorization, ollama_address, user_info

DEVKEY = "devkey"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# A length that is not the body's would make the rest of a prompt another request.
_OF_EACH_MESSAGE = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?\Z")
# A year. Far above it the clocks of threads and of the event loop overflow, infinity included.
SECONDS_MAX = 365 * 24 * 3600.0
# A tebibyte, or as many of anything: what is more is a slip of the hand, and limits nothing.
SIZE_MAX = 2**40

Seconds = Annotated[float, Field(ge=0, le=SECONDS_MAX)]
PositiveSeconds = Annotated[float, Field(gt=0, le=SECONDS_MAX)]
Size = Annotated[int, Field(ge=0, le=SIZE_MAX)]
PositiveSize = Annotated[int, Field(gt=0, le=SIZE_MAX)]
# An origin as a browser sends it: in small letters and ASCII, without user, path or what follows;
# `*` for any part. A page of http has a host.
_ORIGIN = re.compile(
    r"(?!https?:/*\Z)[a-z*][a-z0-9+.*-]*://(\[[0-9a-f:.*]+\]|[a-z0-9._*-]*)(:[0-9*]+)?/?\Z"
)
_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key")
# Ollama's own: pages on this machine, on any port, and programs that are pages inside.
LOCAL_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
        for scheme in ("http", "https")
        for port in ("", ":*")
    ),
    *("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"),
)


class Settings(BaseSettings):
    """Read from the environment when the server starts. A bad value raises ValidationError."""

    model_config = SettingsConfigDict(
        env_prefix="JARVIS_",
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        # A value may hold a password.
        hide_input_in_errors=True,
    )

    # -- what the server talks to

    # As Ollama's own client reads it: host, host:port or a URL; 0.0.0.0 means loopback.
    ollama_host: str = Field(
        default="http://127.0.0.1:11434",
        validation_alias=AliasChoices("JARVIS_OLLAMA_HOST", "OLLAMA_HOST"),
    )
    # A bearer token, where Ollama stands behind something that asks for one.
    ollama_api_key: str = Field(default="", repr=False)
    # Headers for it, as a JSON object, where it asks for others.
    ollama_headers: dict[str, str] = Field(default_factory=dict, repr=False)
    # `user:password` of ollama_host, which does not show it.
    _ollama_user_info: str = PrivateAttr(default="")
    # `thread` is the note's way: one blocking call per stream, in a thread of its own.
    ollama_client: Literal["async", "thread"] = "async"
    # For prompts that name no model; without it the first that Ollama lists and that can chat.
    default_model: str | None = None

    # -- who may call

    # Comma separated. Without any key, `devkey` serves, on loopback only.
    api_keys: str = Field(default="", repr=False)
    # A file with one key per line; blank lines and lines with # are skipped.
    api_keys_file: Path | None = None

    # Origins whose pages may call, comma separated; `*` in one is any text, alone any origin. Pages
    # and programs of this machine without it, as with Ollama's OLLAMA_ORIGINS; empty for none.
    cors_origins: str | None = None

    # To whom `GET /` shows the chat that is a page of this server: browsers of this machine,
    # `anywhere`, or `off`. Its prompts need a key all the same.
    page: Literal["local", "anywhere", "off"] = "local"

    # -- which session a prompt belongs to

    # Headers, comma separated, in which a front-end forwards the id of a conversation.
    session_header: str = ""
    # A prompt that names no session has its own, or shares the key's; `key` if devkey is all.
    nameless: Literal["own", "key"] | None = None
    # What a prompt does that finds its session busy, unless it says so itself.
    session_strategy: Literal["interrupt", "enqueue", "reject"] = "interrupt"
    # What is not streamed in a session taken from such a header or from `user`: a front-end's
    # titles and tags look so. Its own session, or the conversation's.
    unstreamed: Literal["own", "session"] = "own"

    # -- several workers: where they share their sessions

    # One process needs none. `sqlite` or `sqlite:/path` for the workers of one host, `redis://…` or
    # `rediss://…` (Valkey or Redis 7) for several, `redis+sentinel://…` where Sentinels know it;
    # `none` if each worker may have its own sessions.
    sessions: str = Field(default="", repr=False)
    # The begin of every key in Valkey or Redis: servers with another one share no session.
    sessions_prefix: str = "onestream"
    # One request to the store; what takes longer counts as unreachable, also where this worker, or
    # the store, had too little of its processor: more there.
    sessions_call_seconds: PositiveSeconds = 0.5
    # How long a worker may be out of touch with the store before its streams end; the same for all.
    lease_seconds: PositiveSeconds = 6.0
    # Waited beyond a lease: as far as a worker's clock may fall behind within one.
    lease_margin_seconds: PositiveSeconds = 0.5
    # How long a primary that was replaced in a fail-over may still answer (min-replicas-max-lag).
    lease_lag_seconds: Seconds = 0.0

    # -- what operators see

    # Lines of text, as in the note, or `json`: one object a line, with the same words.
    log: Literal["text", "json"] = "text"
    # Who may read GET /metrics without a key: programs of this machine, or nobody; `off` has none.
    metrics: Literal["loopback", "key", "off"] = "loopback"
    # host:port of the metrics' own, without a key. A worker takes the first port that is free from
    # there on, and answers for itself alone.
    metrics_listen: str = ""

    # -- limits in seconds

    # A listening Ollama accepts at once; a host that is away would take minutes to say so.
    connect_seconds: PositiveSeconds = 5.0
    # Queueing, loading and evaluating the prompt are silent; a load alone may take 300 s.
    first_chunk_seconds: PositiveSeconds = 330.0
    # Parsers for tools and thinking swallow chunks, so short silences are legal, long ones not.
    stream_inactivity_seconds: PositiveSeconds = 120.0
    # For a thread of the `thread` client, where all are busy: as long as Ollama may queue and load.
    thread_wait_seconds: PositiveSeconds = 330.0
    # From a stream's start to its last chunk: what never ends would hold its session for ever.
    total_seconds: PositiveSeconds = 3600.0
    # One write to a client that does not read; the stream holds its session meanwhile.
    send_seconds: PositiveSeconds = 30.0
    # For the head of a request; a connection without a key is held no longer than this.
    request_head_seconds: PositiveSeconds = 10.0
    # For the client to deliver the body of its request.
    body_seconds: PositiveSeconds = 30.0
    # How long a newer prompt waits for the clean-up of the older stream.
    grace_seconds: Seconds = 2.0
    # How long an enqueued prompt waits for its turn: the one before it may take total_seconds.
    queue_seconds: PositiveSeconds = 600.0
    # How long the agent task may take over its cancel before that is repeated and reported.
    agent_cancel_seconds: Seconds = 0.5
    # Until then an error of Ollama keeps its status; later clients and proxies lose patience.
    head_hold_seconds: Seconds = 10.0
    # Below the idle limit of common proxies (60 s), so that silence is not taken for death.
    ping_seconds: PositiveSeconds = 15.0
    # A prompt that failed and comes again this soon is its library's doing; most give up by then.
    repeat_seconds: Seconds = 60.0
    # What GET /v1/models may take: it asks Ollama for a list and waits for no model.
    models_seconds: PositiveSeconds = 5.0

    # -- limits in numbers

    # Images travel inside the JSON, so the body is larger than any text. No step of the work on it
    # may hold others up for more than 0.25 s: the longest, parsing escapes, takes 6 ns a byte.
    body_max_bytes: PositiveSize = 32 * 1024 * 1024
    # JSON values in one body. Each costs microseconds in which no other request is served.
    body_max_values: PositiveSize = 50_000
    # Of all bodies that are being read or parsed at once.
    bodies_max_bytes: PositiveSize = 256 * 1024 * 1024
    # Chunks read from Ollama and not yet sent: enough to smooth, too few to run far ahead.
    buffer_max_chunks: PositiveSize = 64
    # Enqueued prompts of one session: each holds a connection, and the last waits for all others.
    queue_max: Size = 8
    # Streams of the `thread` client at once: the 64 that may be detached, and as many active.
    threads_max: PositiveSize = 128
    # Connections that watch the streams of one key: each holds what it is yet to be told.
    watchers_max: Size = 32
    # Ended streams that GET /v1/streams still lists, for each key.
    archive_max: Size = 200
    # How long it lists them.
    archive_seconds: Seconds = 600.0
    # Of one stream's partial text; what is longer loses its end.
    archive_max_chars: Size = 100_000

    @model_validator(mode="after")
    def _ollama_is_reachable(self) -> Settings:
        raw = self.ollama_host
        address, self._ollama_user_info = ollama_address(raw), user_info(raw)
        # The only place where a frozen field is replaced: it was not read before.
        self.__dict__["ollama_host"] = address
        if self._ollama_user_info and self.ollama_api_key:
            raise ValueError("give Ollama's user and password, or JARVIS_OLLAMA_API_KEY, not both")
        names = [name.lower() for name in self.ollama_headers]
        if "authorization" in names and (self.ollama_api_key or self._ollama_user_info):
            raise ValueError(
                "JARVIS_OLLAMA_HEADERS holds an Authorization, as JARVIS_OLLAMA_API_KEY or the "
                "user of OLLAMA_HOST does; give one of them"
            )
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"JARVIS_OLLAMA_HEADERS: {twice[:40]!a} is there twice; give it once")
        for name, value in self.ollama_upstream_headers.items():
            if name.lower() in _OF_EACH_MESSAGE:
                raise ValueError(
                    f"JARVIS_OLLAMA_HEADERS: {name[:40]!a} says how one message is framed or "
                    f"written, which this server decides; leave it out"
                )
            if not _HEADER_NAME.match(name):
                raise ValueError(
                    f"JARVIS_OLLAMA_HEADERS: {name[:40]!a} is no name of a header; write X-Token, "
                    f"letters, digits and dashes"
                )
            if not _HEADER_VALUE.match(value):
                raise ValueError(
                    f"JARVIS_OLLAMA_HEADERS: the value of {name[:40]!a} is empty, begins or ends "
                    f"with a space, or is not printable ASCII"
                )
        return self

    @field_validator("sessions")
    @classmethod
    def _known_store(cls, value: str) -> str:
        store_address.check(value)
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _known_address(cls, value: str) -> str:
        if value:
            host_and_port(value)
        return value

    @model_validator(mode="after")
    def _metrics_that_are_there(self) -> Settings:
        if self.metrics_listen and self.metrics == "off":
            raise ValueError(
                "JARVIS_METRICS_LISTEN has no effect with JARVIS_METRICS=off; unset one of them"
            )
        return self

    @field_validator("sessions_prefix")
    @classmethod
    def _plain_prefix(cls, value: str) -> str:
        if not _PREFIX.match(value):
            raise ValueError("is not 1 to 64 letters, digits, dots, dashes, colons or underscores")
        return value

    @model_validator(mode="after")
    def _lease_is_renewed_in_time(self) -> Settings:
        if self.shares_sessions and self.lease_seconds < 4 * self.sessions_call_seconds:
            raise ValueError(
                f"JARVIS_LEASE_SECONDS={self.lease_seconds:g} is less than four times "
                f"JARVIS_SESSIONS_CALL_SECONDS={self.sessions_call_seconds:g}: one slow request "
                f"would end streams; make the lease longer or the call's limit shorter"
            )
        return self

    @property
    def shares_sessions(self) -> bool:
        """Whether the workers have a store in common."""
        return self.sessions not in ("", store_address.NONE)

    def __hash__(self) -> int:
        # pydantic's own would hash every field, and a mapping has no hash.
        return hash(repr(self))

    @property
    def ollama_upstream_headers(self) -> dict[str, str]:
        """What every request to Ollama carries, secrets included: never to be shown."""
        headers = dict(self.ollama_headers)
        if self._ollama_user_info:
            headers["authorization"] = basic_authorization(self._ollama_user_info)
        if self.ollama_api_key:
            headers["authorization"] = f"Bearer {self.ollama_api_key}"
        return headers

    @field_validator("cors_origins")
    @classmethod
    def _known_origins(cls, value: str | None) -> str | None:
        for origin in split_keys(value or ""):
            if origin not in ("*", "null") and not _ORIGIN.match(origin):
                raise ValueError(
                    f"{_without_user(origin)[:80]!a} in JARVIS_CORS_ORIGINS is no origin; write "
                    f"http://host:port or https://host as a browser shows it, http://host:* for "
                    f"any port, or * for all"
                )
        return value

    @property
    def cors_allowed(self) -> tuple[str, ...]:
        if self.cors_origins is None:
            return LOCAL_ORIGINS
        return tuple(origin.rstrip("/") for origin in split_keys(self.cors_origins))

    @field_validator("session_header")
    @classmethod
    def _known_headers(cls, value: str) -> str:
        for name in split_keys(value):
            if not _HEADER_NAME.match(name):
                raise ValueError(
                    f"{name[:40]!a} is no name of a header; write X-Chat-Id, or several with commas"
                )
            if name.lower() in _SECRET_HEADERS:
                raise ValueError(
                    f"{name} carries a secret, and the id of a session stands in the log and in "
                    f"the store; name a header with the id of a conversation, X-Chat-Id say"
                )
        return value

    @field_validator("ollama_api_key")
    @classmethod
    def _one_token(cls, value: str) -> str:
        if not is_key(value):
            raise ValueError(
                "is not printable ASCII without a space; write the token alone, without `Bearer`"
            )
        return value

    @property
    def session_headers(self) -> tuple[str, ...]:
        return split_keys(self.session_header)

    @field_validator("default_model")
    @classmethod
    def _no_empty_model(cls, value: str | None) -> str | None:
        return (value or "").strip() or None

    @model_validator(mode="after")
    def _known_keys(self) -> Settings:
        keys = split_keys(self.api_keys)
        if self.api_keys and not keys:
            raise ValueError("JARVIS_API_KEYS holds no key, only commas or spaces; unset it")
        for number, key in enumerate(keys, 1):
            if not is_key(key):
                raise ValueError(
                    f"JARVIS_API_KEYS: key {number} of {len(keys)} is not printable ASCII without "
                    f"a space"
                )
        return self

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _no_empty_path(cls, value: object) -> object:
        if value == "":
            raise ValueError("is empty; name a file with one key per line, or unset it")
        return value


def _without_user(origin: str) -> str:
    # It may hold a password, and the sentence is logged.
    scheme, separator, rest = origin.partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{separator}…@{host}" if at else origin


def host_and_port(address: str) -> tuple[str, int]:
    """Of `host:port`, `[::1]:port` or `:port`, which is every address of the machine."""
    host, colon, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not colon or not 0 <= number <= 65535 or (":" in host and not is_bracketed):
        raise ValueError(
            "is not host:port, [address]:port or :port, with a port up to 65535; write "
            "127.0.0.1:9100, say"
        )
    return host.strip("[]") or "0.0.0.0", number


def split_keys(text: str) -> tuple[str, ...]:
    """The keys of a comma separated list."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def is_key(key: str) -> bool:
    """Whether a header can carry it as it is: another could never be matched."""
    return key.isascii() and key.isprintable() and " " not in key
