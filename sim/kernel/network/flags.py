"""Flags of `recv` and `send` that a simulated socket knows; others are refused."""

from __future__ import annotations

import socket


def _flags(*names: str) -> int:
    return sum(getattr(socket, name, 0) for name in names)


WAITS_FOR_ALL = _flags("MSG_WAITALL")
READ_FLAGS = WAITS_FOR_ALL | _flags("MSG_PEEK", "MSG_DONTWAIT", "MSG_NOSIGNAL", "MSG_CMSG_CLOEXEC")
WRITE_FLAGS = _flags("MSG_DONTWAIT", "MSG_NOSIGNAL", "MSG_MORE")
"""MSG_MORE changes when something is sent, which is free anyway."""
