"""Plain log lines on stderr, the note's exactly as they are in the note."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from server.outlet import Outlet
from server.refusals import FewRefusals

# Whose handlers write while the event loop waits: ours, uvicorn's, and asyncio's own complaints.
_LOGGERS = ("onestream", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")
# One for each descriptor, for as long as the process lives.
_outlets: dict[int, Outlet] = {}


def configure() -> None:
    """Gives `onestream` a handler, unless the program around it has set up logging itself."""
    logger = logging.getLogger("onestream")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(FewRefusals())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


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
        loop_log.addHandler(logging.StreamHandler())
    for handler in _handlers():
        fd = _fd_of(handler.stream)
        if fd is not None:
            handler.setStream(_outlets.setdefault(fd, Outlet(fd)))


def say(line: str, stream: TextIO) -> None:
    """Prints a line of the process that serves, as its log does: nothing waits for a reader."""
    fd = _fd_of(stream)
    if fd is None:
        print(line, file=stream, flush=True)
    else:
        _outlets.setdefault(fd, Outlet(fd)).write(f"{line}\n")


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
