"""The options of sockets: what a system keeps of a value, and tells where none was set."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

from sim.kernel.network.errors import os_error
from sim.kernel.network.open_sockets import OpenSocket
from sim.kernel.origin import modelled

_SOCKET, _TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
_BYTES_MAX = 1024
_INT = struct.Struct("i")


def _named(level: int, *names: str) -> list[tuple[int, int]]:
    """As far as this system has them."""
    return [(level, getattr(socket, name)) for name in names if hasattr(socket, name)]


_OF_SOCKET = ("SO_REUSEADDR", "SO_REUSEPORT", "SO_KEEPALIVE", "SO_BROADCAST", "SO_OOBINLINE")
_FLAGS = {
    *_named(_SOCKET, *_OF_SOCKET),
    *_named(_TCP, "TCP_NODELAY", "TCP_CORK", "TCP_QUICKACK"),
    *_named(socket.IPPROTO_IPV6, "IPV6_V6ONLY"),
}
# Linux doubles what is asked for, between these and what a system lets a user have.
_BUFFER_BYTES_MIN = {socket.SO_SNDBUF: 4608, socket.SO_RCVBUF: 2304}
_BUFFER_BYTES_ASKED_MAX = 212_992
_BUFFER_BYTES = {socket.SO_SNDBUF: 16_384, socket.SO_RCVBUF: 131_072}
_TIME_LIMITS = {*_named(_SOCKET, "SO_RCVTIMEO", "SO_SNDTIMEO")}
_LINGER = struct.Struct("ii")
LINGERS_NOT = _LINGER.pack(1, 0)

_UNSET: dict[tuple[int, int], int | bytes] = {
    (_SOCKET, socket.SO_LINGER): bytes(_LINGER.size),
    **dict.fromkeys(_TIME_LIMITS, bytes(16)),
}
for _level, _name, _number in (
    (_SOCKET, "SO_RCVLOWAT", 1),
    (_TCP, "TCP_KEEPIDLE", 7200),
    (_TCP, "TCP_KEEPINTVL", 75),
    (_TCP, "TCP_KEEPCNT", 9),
    (_TCP, "TCP_QUICKACK", 1),
    (_TCP, "TCP_SYNCNT", 6),
    (_TCP, "TCP_LINGER2", 60),
    (socket.IPPROTO_IP, "IP_TTL", 64),
):
    _UNSET |= dict.fromkeys(_named(_level, _name), _number)


def _protocol(opened: OpenSocket) -> int:
    if opened.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    return socket.IPPROTO_TCP if opened.kind == socket.SOCK_STREAM else socket.IPPROTO_UDP


# What is never set.
_TOLD: dict[tuple[int, int], Callable[[OpenSocket], int]] = {
    (_SOCKET, socket.SO_ERROR): OpenSocket.take_error,
    (_SOCKET, socket.SO_TYPE): lambda opened: int(opened.kind),
    (_SOCKET, socket.SO_ACCEPTCONN): lambda opened: int(opened.is_listening),
}
for _key in _named(_SOCKET, "SO_DOMAIN"):
    _TOLD[_key] = lambda opened: int(opened.family)
for _key in _named(_SOCKET, "SO_PROTOCOL"):
    _TOLD[_key] = _protocol


def limits_time(level: int, name: int, value: Any) -> bool:
    """Whether it sets a time limit of the system's own."""
    return (level, name) in _TIME_LIMITS and isinstance(value, (bytes, bytearray)) and any(value)


def set_option(opened: OpenSocket, level: int, name: int, value: Any) -> None:
    _require_level(opened, level)
    opened.set_option(level, name, _kept(level, name, value))


def _kept(level: int, name: int, value: Any) -> Any:
    if (level, name) == (_SOCKET, socket.SO_LINGER):
        if not isinstance(value, (bytes, bytearray)) or len(value) < _LINGER.size:
            raise os_error(errno.EINVAL)
        whether, seconds = _LINGER.unpack_from(value)
        return _LINGER.pack(bool(whether), seconds)
    is_buffer = level == _SOCKET and name in _BUFFER_BYTES_MIN
    if is_buffer or (level, name) in _FLAGS:
        value = _as_int(value)
    elif isinstance(value, int):
        value = int(value)
    if (level, name) in _FLAGS:
        return int(bool(value))
    if is_buffer:
        return max(2 * min(value, _BUFFER_BYTES_ASKED_MAX), _BUFFER_BYTES_MIN[name])
    return value


def _as_int(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    if not isinstance(value, (bytes, bytearray)) or len(value) < _INT.size:
        raise os_error(errno.EINVAL)
    return int(_INT.unpack_from(value)[0])


def option(opened: OpenSocket, level: int, name: int, bytes_max: int) -> int | bytes:
    """As `getsockopt`: a number, or with a number of bytes as many of them at most."""
    if not 0 <= bytes_max <= _BYTES_MAX:
        raise modelled(OSError("getsockopt buflen out of range"))
    _require_level(opened, level)
    told = _TOLD.get((level, name))
    value = _value(opened, level, name) if told is None else told(opened)
    if bytes_max:
        return (_INT.pack(value) if isinstance(value, int) else value)[:bytes_max]
    return value if isinstance(value, int) else int(_INT.unpack_from(value)[0])


def _value(opened: OpenSocket, level: int, name: int) -> int | bytes:
    unset = _UNSET.get((level, name), 0)
    if level == _SOCKET and name in _BUFFER_BYTES:
        is_tcp = _protocol(opened) == socket.IPPROTO_TCP
        unset = _BUFFER_BYTES[name] if is_tcp else _BUFFER_BYTES_ASKED_MAX
    found: int | bytes = opened.option(name, level, unset)
    return found


def _require_level(opened: OpenSocket, level: int) -> None:
    if level == _TCP and _protocol(opened) != socket.IPPROTO_TCP:
        raise os_error(errno.EOPNOTSUPP)
