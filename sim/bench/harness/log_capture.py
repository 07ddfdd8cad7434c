"""The log lines of the registries and the server, for the benches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sim.kernel.world import World

_LOGGERS = ("onestream.registry", "onestream.server", "onestream.subjects")
# These go nowhere: what repeats the answer, which the bench judges; and what servers complain of
# when the tasks that an execution leaves behind are cancelled.
_UNTOLD = ("onestream.refused", "onestream.fake_ollama", "uvicorn.error")


@dataclass(frozen=True, slots=True)
class LogLine:
    """`stream_cancelled trace=p1 reason=response_over`, say, parsed: an event, and the fields whose
    values are one word. The first of two of the same name counts."""

    text: str
    event: str
    fields: dict[str, str]

    @classmethod
    def of(cls, text: str) -> LogLine:
        event, _, rest = text.partition(" ")
        words = [word.partition("=") for word in rest.split()]
        return cls(text, event, {name: value for name, equals, value in words[::-1] if equals})

    def canonical_state(self) -> object:
        """Without how long a stream lasted, which is only logged; the rest follows from it."""
        return [word for word in self.text.split() if not word.startswith("duration_ms=")]

    def says(self, event: str, **fields: str | None) -> bool:
        """Whether it has this event, and these fields among its own."""
        return self.event == event and all(
            self.fields.get(name) == value for name, value in fields.items()
        )


@contextmanager
def log_captured(*into: Callable[[LogLine], None]) -> Iterator[None]:
    """Each log line of the registries and the server goes to all of `into`, and nowhere else."""
    handler = _Handler(into)
    loggers = [logging.getLogger(name) for name in (*_LOGGERS, *_UNTOLD)]
    before = [(logger.level, logger.propagate) for logger in loggers]
    handlers = [logging.NullHandler() if each.name in _UNTOLD else handler for each in loggers]
    for logger, added in zip(loggers, handlers, strict=True):
        logger.addHandler(added)
        logger.propagate = False
    _set_levels((logger, logging.INFO) for logger in loggers)
    try:
        yield
    finally:
        for logger, added, (_, propagate) in zip(loggers, handlers, before, strict=True):
            logger.removeHandler(added)
            logger.propagate = propagate
        _set_levels((logger, level) for logger, (level, _) in zip(loggers, before, strict=True))


def _set_levels(levels: Iterable[tuple[logging.Logger, int]]) -> None:
    """As by `setLevel`, which goes through all loggers of the process for each that changes."""
    changed = [(logger, level) for logger, level in levels if logger.level != level]
    for logger, level in changed[1:]:
        logger.level = level
    for logger, level in changed[:1]:
        logger.setLevel(level)


def log_recorded(world: World, *into: Callable[[LogLine], None]) -> AbstractContextManager[None]:
    """As `log_captured`, and the trace has a column for the lines."""
    return log_captured(*into, lambda line: world.record(line.text, actor="log"))


def silenced() -> AbstractContextManager[None]:
    """The log lines of the registries go nowhere."""
    return log_captured()


class _Handler(logging.Handler):
    def __init__(self, into: tuple[Callable[[LogLine], None], ...]) -> None:
        super().__init__()
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        if self._into:
            line = LogLine.of(record.getMessage())
            for take in self._into:
                take(line)
