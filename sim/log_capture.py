"""The log lines of the registries and the server, for whoever plays them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_LOGGERS = ("onestream.registry", "onestream.server", "onestream.suspects")


@contextmanager
def log_captured(into: Callable[[str], None]) -> Iterator[None]:
    """The log lines of the registries go to `into`, and nowhere else."""
    handler = _Handler(into)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        if logger.level != logging.INFO:
            logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
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
