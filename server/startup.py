"""Checks what runs the application when it starts: which server, in how many processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.security import StartRefused

_ONE_PROCESS = (
    "a session has one active stream, and each process would have sessions of its own. Start one "
    "process (no --workers or -w, WEB_CONCURRENCY unset): it serves hundreds of streams, of which "
    "Ollama computes few at a time."
)
_SHARE = (
    "Or let the workers share their sessions:\n"
    "    JARVIS_SESSIONS=sqlite                 those of one host\n"
    "    JARVIS_SESSIONS=redis://host:6379/0    those of several (Valkey or Redis)\n"
    "JARVIS_SESSIONS=none lets each have its own"
)
OTHER_SERVER = (
    "only uvicorn is supported, and this is another server, or a program that runs the application "
    "itself: at SIGTERM streams may break off without a message, and of several processes each "
    "would have sessions of its own; start it with `onestream serve` or `python -m uvicorn "
    "server.app:app`, or pass create_app(signals=()) if the program ends the lifespan itself"
)


def check_processes(
    server: uvicorn.Server | None, *, sessions: str = "", is_left_alone: bool = False
) -> None:
    """Raises StartRefused where this is one of several processes that would share an address.

    sessions: JARVIS_SESSIONS; with a store, or with `none`, there may be several.

    is_left_alone: by create_app(signals=()), of a program that runs the application itself.
    """
    if server is not None:
        check_shared(workers_of(server), sessions)
    elif not is_left_alone and multiprocessing.parent_process() is not None:
        raise StartRefused(
            f"only uvicorn is supported, and this is a worker of something else: {_ONE_PROCESS} "
            f"Or start several workers of uvicorn's, which can share sessions (JARVIS_SESSIONS)"
        )


def check_shared(workers: int, sessions: str) -> None:
    """Raises StartRefused for several workers of which nobody has said how they share sessions."""
    if workers > 1 and not sessions:
        raise StartRefused(f"will not be one of {workers} workers: {_ONE_PROCESS} {_SHARE}")


def is_served_by_another(server: uvicorn.Server | None) -> bool:
    """Whether a whole process serves the application, and it isn't uvicorn's.

    Not in a thread of a program, as a test's client runs it.
    """
    return server is None and threading.current_thread() is threading.main_thread()


def workers_of(server: uvicorn.Server) -> int:
    """In how many processes it serves, this one included."""
    config = server.config
    # gunicorn's worker is a process that it forked, and whose uvicorn knows nothing of others.
    gunicorn = getattr(getattr(config.callback_notify, "__self__", None), "cfg", None)
    if gunicorn is not None:
        return int(getattr(gunicorn, "workers", 1))
    # Only the processes of uvicorn's own supervisor are several: a program that runs one server
    # may well have WEB_CONCURRENCY in its environment. With --reload uvicorn ignores it, too.
    if config.reload or multiprocessing.parent_process() is None:
        return 1
    return config.workers


async def quietly(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Runs the application's lifespan, and sends no traceback of what is not the program's fault.

    Starlette sends one for every failure, and uvicorn prints it. A refusal was logged in a
    sentence; a cancel is how uvicorn ends what a second Ctrl-C doesn't wait for.
    """

    async def send_without_traceback(message: Message) -> None:
        if isinstance(sys.exception(), (StartRefused, asyncio.CancelledError)):
            message = {**message, "message": ""}
        await send(message)

    await app(scope, receive, send_without_traceback)
