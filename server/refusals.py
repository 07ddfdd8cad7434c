"""The log of requests that were refused: a line for each, unless there are too many.

They show the server's operator why a client gets nothing. What a client wrote is escaped and
shortened, and a key is never in it: messages of errors hold none.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from starlette.types import Scope

from registry.operations import Logged
from server.errors import ApiError
from server.events import Events
from server.lines import line

_logger = logging.getLogger("onestream.refused")

REFUSED = "request_refused"
FAILED = "stream_error"

_METHOD_MAX_CHARS = 20
_PATH_MAX_CHARS = 100
_REASON_MAX_CHARS = 300
# Lines at once and in a row: a flood of refused requests must not fill the disk.
LINES_MAX = 50
LINES_PER_S = 5.0


def log_refused(events: Events, scope: Scope, error: ApiError) -> None:
    """One line for a request that gets an error instead of what it asked for."""
    events.tell(
        line(
            REFUSED,
            trace=scope["state"].get("trace_id"),
            status=error.status,
            code=error.code,
            method=str(scope["method"])[:_METHOD_MAX_CHARS],
            path=str(scope["path"])[:_PATH_MAX_CHARS],
            reason=error.message[:_REASON_MAX_CHARS],
        ),
        _logger,
        logging.INFO,
    )


def log_no_request(events: Events, trace_id: str, error: ApiError) -> None:
    """One line for what is no request of HTTP, and so has no method and no path."""
    _tell(events, REFUSED, trace_id, error)


def log_failed(events: Events, trace_id: str, error: ApiError) -> None:
    """One line for a prompt that ended with an error, in its status or as a message."""
    _tell(events, FAILED, trace_id, error)


def _tell(events: Events, event: str, trace_id: str, error: ApiError) -> None:
    events.tell(
        line(
            event,
            trace=trace_id,
            status=error.status,
            code=error.code,
            reason=error.message[:_REASON_MAX_CHARS],
        ),
        _logger,
        logging.INFO,
    )


class FewRefusals(logging.Filter):
    """For a handler: lets a burst of refusals through, then a few a second, and counts the rest.

    It uses the time of the records, and reads no clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._room = float(LINES_MAX)
        self._at = 0.0
        # Not printed since the last that was.
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != _logger.name:
            return True
        elapsed_s = max(record.created - self._at, 0.0)
        self._at = record.created
        self._room = min(self._room + elapsed_s * LINES_PER_S, LINES_MAX)
        if self._room < 1.0:
            self._left_out += 1
            return False
        self._room -= 1.0
        if self._left_out and isinstance(record.msg, Logged):
            counted = (*record.msg.fields, ("not_logged_before", self._left_out))
            record.msg = replace(record.msg, fields=counted)
            self._left_out = 0
        return True
