"""The log lines of the registries and the server, for whoever plays them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_LOGGERS = ("onestream.registry", "onestream.server", "onestream.suspects")
# What a client is told stands in its answer, which the bench judges: these lines go nowhere.
_UNTOLD = ("onestream.refused",)


@contextmanager
def log_captured(into: Callable[[str], None]) -> Iterator[None]:
    """The log lines of the registries go to `into`, and nowhere else."""
    handler = _Handler(into)
    loggers = [logging.getLogger(name) for name in (*_LOGGERS, *_UNTOLD)]
    before = [(logger.level, logger.propagate) for logger in loggers]
    handlers = [logging.NullHandler() if each.name in _UNTOLD else handler for each in loggers]
    for logger, added in zip(loggers, handlers, strict=True):
        logger.addHandler(added)
        if logger.level != logging.INFO:
            logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, added, (level, propagate) in zip(loggers, handlers, before, strict=True):
            logger.removeHandler(added)
            if logger.level != level:
                logger.setLevel(level)
            logger.propagate = propagate


def silenced() -> AbstractContextManager[None]:
    """The log lines of the registries go nowhere."""
    return log_captured(lambda line: None)


class _Handler(logging.Handler):
    def __init__(self, into: Callable[[str], None]) -> None:
        super().__init__()
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into(record.getMessage())
