"""Which session a prompt belongs to: the one that it names, one that is guessed, or its own."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

from starlette.datastructures import Headers

from registry import Strategy
from server.errors import ApiError
from server.prompt import Prompt
from server.security import SESSION_ID_DEFAULT, SESSION_ID_MAX_CHARS, check_session_id
from server.settings import Settings

SESSION_HEADER = "X-Session-Id"
STRATEGY_HEADER = "X-Session-Strategy"


def session_of(
    prompt: Prompt,
    headers: Headers,
    *,
    settings: Settings,
    is_devkey: bool,
    trace_id: str,
) -> str:
    """The session id of a prompt. Raises ApiError (400) for an explicit one that can't be one.

    X-Session-Id and `session_id` are explicit, and obeyed; an empty one is an error of a
    client that meant to name a session, and would share that of all that name none. A header of
    JARVIS_SESSION_HEADER, or `user`, was written for something else: it is a guess at the
    conversation, and front-ends send their titles, tags and follow-ups with the same. Those are
    not streamed, the answer is: so in a guessed session only what is streamed interrupts, and the
    rest has a session of its own.
    """
    header = _said(headers, SESSION_HEADER)
    if header is not None:
        return check_session_id(header, SESSION_HEADER)
    if prompt.session_id is not None:
        return check_session_id(prompt.session_id, "session_id")
    own = f"own-{trace_id}"
    guess = next(filter(None, map(headers.get, settings.session_headers)), None) or prompt.user
    if guess:
        shares = prompt.is_streamed or settings.unstreamed == "session"
        return readable(guess) if shares else own
    nameless = settings.nameless or ("key" if is_devkey else "own")
    return SESSION_ID_DEFAULT if nameless == "key" else own


def strategy_of(prompt: Prompt, headers: Headers, settings: Settings) -> Strategy:
    """What a prompt does that finds its session busy. Raises ApiError (400) for an unknown one."""
    value, param = _said(headers, STRATEGY_HEADER), STRATEGY_HEADER
    if value is None:
        value, param = prompt.session_strategy, "session_strategy"
    if value is None:
        value = settings.session_strategy
    try:
        return Strategy(value[:80])
    except ValueError as exc:
        raise ApiError(400, "invalid_request", f"{param}: {exc}", param=param) from None


def overruled(prompt: Prompt, headers: Headers) -> tuple[str, ...]:
    """The names of what the body says of its session otherwise than a header, which goes first."""
    pairs = (
        ("session_id", prompt.session_id, SESSION_HEADER),
        ("session_strategy", prompt.session_strategy, STRATEGY_HEADER),
    )
    return tuple(
        name
        for name, said, header in pairs
        if said is not None and headers.get(header, said) != said
    )


def _said(headers: Headers, name: str) -> str | None:
    """What a header says, None without one. Raises ApiError (400) where two say different things.

    Which of them was meant, the client's or that of something in between, nobody can tell.
    """
    values = list(dict.fromkeys(headers.getlist(name)))
    if len(values) > 1:
        some = ", ".join(f"{value[:40]!a}" for value in values[:3])
        problem = f"{name}: is there {len(values)} times, as {some}; send it once"
        raise ApiError(400, "invalid_request", problem, param=name)
    return values[0] if values else None


def readable(text: str) -> str:
    """Any text as a session id: as it is if it may be one, else escaped, else as its digest."""
    raw = text.encode("utf-8", "backslashreplace")
    # Escaping shortens nothing, and takes seconds for a text as long as a body may be.
    if len(raw) <= SESSION_ID_MAX_CHARS:
        escaped = quote(raw, safe="!#$&'()*+,/:;=?@[]~")
        if len(escaped) <= SESSION_ID_MAX_CHARS:
            return escaped
    return f"sha256-{hashlib.sha256(raw).hexdigest()}"
