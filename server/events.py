"""What happens to streams and requests, told once: the log, the metrics and the traces all hear it.

Each event has a name and fields, as a line of the log has; those that the note does not have are
of level DEBUG, so that its log stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from registry import StreamRegistry
from registry.operations import Logged
from server.registries import Registry
from server.stores.leased_registry import LeasedRegistry

_logger = logging.getLogger("onestream.server")

Listener = Callable[[Logged], None]

# A prompt asks for its session; Ollama sent its first chunk; the stream's answer is over, which is
# before its clean-up is; the store was asked.
REGISTERED = "stream_registered"
FIRST_CHUNK = "stream_first_chunk"
OVER = "stream_over"


class Events:
    """Of one application.

    A listener is called in the event loop's thread and in the step in which it happens. It has to
    return at once, and to raise nothing.
    """

    def __init__(self, listeners: tuple[Listener, ...] = ()) -> None:
        self._listeners = listeners

    def tell(
        self, event: Logged, logger: logging.Logger = _logger, level: int = logging.DEBUG
    ) -> None:
        logger.log(level, event)
        self._hear(event)

    def listen_to(self, registry: Registry) -> None:
        """Its log lines are events from now on; a registry of others may have none."""
        if isinstance(registry, StreamRegistry | LeasedRegistry):
            log_line = registry.on_line

            def told(event: Logged) -> None:
                log_line(event)
                self._hear(event)

            registry.on_line = told
        if isinstance(registry, LeasedRegistry):
            registry.store.on_asked = self.tell

    def _hear(self, event: Logged) -> None:
        for listener in self._listeners:
            listener(event)
