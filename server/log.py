"""Log lines on stderr: plain text, the note's exactly as they are in the note, or JSON."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from uvicorn.logging import ColourizedFormatter

from server.lines import line
from server.log_json import JsonFormatter
from server.outlet import Outlet, said_of_dropped
from server.refusals import FewRefusals

# Whose handlers write while the event loop waits: ours, uvicorn's, and asyncio's own complaints.
_LOGGERS = ("onestream", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")
# One for each descriptor, for as long as the process lives.
_outlets: dict[int, Outlet] = {}
# Of the process's log, as `configure` was told last.
_is_json = False


class _OwnHandler(logging.StreamHandler[Any]):
    """Added by `configure`, and not by the program around us."""


def configure(form: str | None = None) -> None:
    """Gives `onestream` a handler, unless the program around it has set up logging itself.

    form: `text` or `json`, as the settings have it; as the environment says before they are read.
    """
    global _is_json
    _is_json = (form or os.environ.get("JARVIS_LOG", "")) == "json"
    logger = logging.getLogger("onestream")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _OwnHandler()
        handler.addFilter(FewRefusals())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    _set_form()


def _set_form() -> None:
    """Of our handlers, and to JSON of uvicorn's own; those of others are left alone."""
    for handler in _handlers():
        is_uvicorns = isinstance(handler.formatter, ColourizedFormatter)
        if isinstance(handler, _OwnHandler) or (is_uvicorns and _is_json):
            handler.setFormatter(JsonFormatter() if _is_json else logging.Formatter("%(message)s"))


def open_closed_streams() -> None:
    """Standard streams that were closed before the process began (`>&- 2>&-`) lead nowhere instead.

    uvicorn, for one, asks them whether they are a terminal. And a connection that got the number of
    a closed one would be sent what any library prints to it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def never_block() -> None:
    """Handlers that write to stdout or stderr hand their lines to a thread from now on.

    For a whole process that serves: Ctrl-S in its terminal, or a pipe that nobody reads, would
    stop it. What the program around us has set up elsewhere (files, the root logger) stays.
    """
    loop_log = logging.getLogger("asyncio")
    if not loop_log.handlers and not logging.getLogger().handlers:
        # Else `logging` would print its complaints itself.
        loop_log.addHandler(_OwnHandler())
        _set_form()
    for handler in _handlers():
        fd = _fd_of(handler.stream)
        if fd is not None:
            handler.setStream(_outlet(fd))


def say(text: str, stream: TextIO, level: int = logging.INFO) -> None:
    """Prints a line of the process that serves, as its log does: nothing waits for a reader.

    Where the log is JSON, so is this: a collector of lines takes those of both streams.
    """
    if _is_json:
        text = _as_json(text, level)
    fd = _fd_of(stream)
    if fd is None:
        print(text, file=stream, flush=True)
    else:
        _outlet(fd).write(f"{text}\n")


def _outlet(fd: int) -> Outlet:
    return _outlets.setdefault(fd, Outlet(fd, said_of_dropped=_said_of_dropped))


def _said_of_dropped(count: int) -> str:
    dropped = line("log_lines_dropped", "nobody took what was logged in time", count=count)
    return _as_json(dropped, logging.WARNING) if _is_json else said_of_dropped(count)


def _as_json(said: object, level: int) -> str:
    return JsonFormatter().format(logging.LogRecord("onestream", level, "", 0, said, None, None))


def end() -> None:
    """The process may end any moment now: lines are given a moment to be taken."""
    for outlet in _outlets.values():
        outlet.end()


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            # Handlers of files, and other subclasses, are their owner's.
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                yield handler


def _fd_of(stream: object) -> int | None:
    """The descriptor of stdout or stderr; None for any other stream."""
    if stream not in (sys.stdout, sys.stderr) or stream is None:
        return None
    try:
        return int(stream.fileno())  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        # Replaced by something that is not a file, as tests do.
        return None
