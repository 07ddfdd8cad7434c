"""Log lines as JSON, one object a line: ours with the words of the text, uvicorn's as a message."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from registry.operations import Logged

# uvicorn.logging.AccessFormatter takes a record of its access log apart in this order.
_ACCESS = ("client", "method", "path", "http_version", "status")


class JsonFormatter(logging.Formatter):
    """What a client or Ollama wrote cannot end a line: JSON escapes it, and all is ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        named = {"time": _time(record.created), "level": record.levelname.lower(), **_said(record)}
        if record.exc_info:
            named["traceback"] = self.formatException(record.exc_info)
        return json.dumps(named, default=str)


def _said(record: logging.LogRecord) -> dict[str, object]:
    if isinstance(record.msg, Logged):
        message = {"message": record.msg.text} if record.msg.text else {}
        return {"event": record.msg.event, **dict(record.msg.fields), **message}
    named = {"event": "log", "logger": record.name}
    if record.name == "uvicorn.access" and len(record.args or ()) == len(_ACCESS):
        return {**named, "event": "request", **dict(zip(_ACCESS, record.args or (), strict=True))}
    return {**named, "message": record.getMessage()}


def _time(seconds: float) -> str:
    """RFC 3339, in UTC."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
