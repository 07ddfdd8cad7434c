"""The options of sockets: what a system takes as a value, what it keeps of it, and what it tells.

Known are those that change nothing here, or whose effect is simulated. Another one is refused,
since a program that sets it counts on something that would not happen.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.kernel.network.addresses import is_own
from sim.kernel.network.errors import os_error
from sim.kernel.network.open_sockets import OpenSocket
from sim.kernel.origin import modelled

_SOCKET, _TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
_BYTES_MAX = 1024
_INT = struct.Struct("i")
_INT_MAX = 2**31 - 1
_LINGER = struct.Struct("ii")
LINGERS_NOT = _LINGER.pack(1, 0)

INSTEAD = (
    "what it does, and what a system tells of it, is not simulated, and a program that uses it "
    "counts on that; those that are known stand in sim/kernel/network/options.py. Leave it out "
    "where the program is explored, or {besides}"
)
_BESIDES = {
    "SO_RCVTIMEO": "limit the time by settimeout",
    "SO_SNDTIMEO": "limit the time by settimeout",
    "SO_RCVLOWAT": "read with MSG_WAITALL",
}
_ANOTHER = "put what needs it into a coroutine that awaits world.outside(…)"

Keeps = Callable[[OpenSocket, int], int]


class NotKnown(Exception):
    """Of an option, or of a value of one: what is refused."""


# -- what is kept of a number


def _flag(_: OpenSocket, number: int) -> int:
    return int(bool(number))


def _number(_: OpenSocket, number: int) -> int:
    return number


def _between(lowest: int, highest: int) -> Keeps:
    def keeps(_: OpenSocket, number: int) -> int:
        if not lowest <= number <= highest:
            raise os_error(errno.EINVAL)
        return number

    return keeps


def _or_default(default: int, highest: int = 255, lowest: int = 0) -> Keeps:
    """-1 takes it back."""

    def keeps(opened: OpenSocket, number: int) -> int:
        return default if number == -1 else _between(lowest, highest)(opened, number)

    return keeps


def _none_but(*harmless: int) -> Keeps:
    """Any other value would change what happens."""

    def keeps(_: OpenSocket, number: int) -> int:
        if number not in harmless:
            raise NotKnown
        return number

    return keeps


def _bytes_of_buffer(lowest: int) -> Keeps:
    """Linux doubles what is asked for, without a sign, up to what a system lets a user have."""

    def keeps(_: OpenSocket, number: int) -> int:
        asked = number if 0 <= number < BUFFER_BYTES_ASKED_MAX else BUFFER_BYTES_ASKED_MAX
        return max(2 * asked, lowest)

    return keeps


def _wakes_from(_: OpenSocket, number: int) -> int:
    if number not in (0, 1):
        raise NotKnown
    return 1


def _lingers(_: OpenSocket, number: int) -> int:
    unset, longest = 60, 120
    return -1 if number < 0 else min(number or unset, longest)


def _segment(_: OpenSocket, number: int) -> int:
    return number if number == 0 else _between(88, 32_767)(_, number)


def _queued(_: OpenSocket, number: int) -> int:
    return min(_between(0, _INT_MAX)(_, number), 4096)


def _of_ipv6_alone(opened: OpenSocket, number: int) -> int:
    if opened.port is not None:
        raise os_error(errno.EINVAL)
    return int(bool(number))


def _class_of_traffic(opened: OpenSocket, number: int) -> int:
    """TCP has the lowest two bits for itself."""
    return number & 0xFF & ~(3 if opened.kind == socket.SOCK_STREAM else 0)


def _class_of_ipv6(opened: OpenSocket, number: int) -> int:
    return _class_of_traffic(opened, _or_default(0)(opened, number))


def _of_inet_alone(opened: OpenSocket, number: int) -> int:
    if number and opened.family not in (socket.AF_INET, socket.AF_INET6):
        raise os_error(errno.EOPNOTSUPP)
    return int(bool(number))


@dataclass(frozen=True, slots=True)
class _Known:
    """keeps: None of one that is only told, by `tells`."""

    unset: int = 0
    keeps: Keeps | None = _flag
    tells: Callable[[OpenSocket], int] | None = None


BUFFER_BYTES_ASKED_MAX = 212_992
_BUFFER_BYTES_OF_TCP = {socket.SO_SNDBUF: 16_384, socket.SO_RCVBUF: 131_072}
# Of IPv4 and IPv6 on a loopback of 65,536 bytes and on a link of 1,500, with TCP's timestamps.
_SEGMENT_BYTES = {socket.AF_INET: (65_483, 1_448), socket.AF_INET6: (65_463, 1_428)}
_SEGMENT_BYTES_UNCONNECTED = 536


def _protocol(opened: OpenSocket) -> int:
    if opened.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    return socket.IPPROTO_TCP if opened.kind == socket.SOCK_STREAM else socket.IPPROTO_UDP


def _segment_bytes(opened: OpenSocket) -> int:
    asked: int = opened.option(socket.TCP_MAXSEG, _TCP)
    is_connected = opened.peer is not None and not getattr(opened, "is_connecting", False)
    if not is_connected:
        return asked or _SEGMENT_BYTES_UNCONNECTED
    on_loopback, on_link = _SEGMENT_BYTES[socket.AddressFamily(opened.family)]
    found = on_loopback if is_own(opened.peer[0]) else on_link
    return min(found, asked - 12) if asked else found


_BY_NAME: dict[int, dict[str, _Known]] = {
    _SOCKET: {
        **dict.fromkeys(("SO_REUSEADDR", "SO_KEEPALIVE", "SO_BROADCAST"), _Known()),
        **dict.fromkeys(("SO_OOBINLINE", "SO_DONTROUTE"), _Known()),
        "SO_REUSEPORT": _Known(0, _of_inet_alone),
        "SO_SNDBUF": _Known(BUFFER_BYTES_ASKED_MAX, _bytes_of_buffer(4608)),
        "SO_RCVBUF": _Known(BUFFER_BYTES_ASKED_MAX, _bytes_of_buffer(2304)),
        "SO_PRIORITY": _Known(0, _number),
        "SO_INCOMING_CPU": _Known(-1, _number),
        "SO_RCVLOWAT": _Known(1, _wakes_from),
        "SO_SNDLOWAT": _Known(1, None),
        "SO_ERROR": _Known(0, None, OpenSocket.take_error),
        "SO_TYPE": _Known(0, None, lambda opened: int(opened.kind)),
        "SO_ACCEPTCONN": _Known(0, None, lambda opened: int(opened.is_listening)),
        "SO_DOMAIN": _Known(0, None, lambda opened: int(opened.family)),
        "SO_PROTOCOL": _Known(0, None, _protocol),
    },
    _TCP: {
        **dict.fromkeys(("TCP_NODELAY", "TCP_CORK"), _Known()),
        "TCP_QUICKACK": _Known(1),
        "TCP_KEEPIDLE": _Known(7200, _between(1, 32_767)),
        "TCP_KEEPINTVL": _Known(75, _between(1, 32_767)),
        "TCP_KEEPCNT": _Known(9, _between(1, 127)),
        "TCP_SYNCNT": _Known(6, _between(1, 127)),
        "TCP_LINGER2": _Known(60, _lingers),
        "TCP_MAXSEG": _Known(0, _segment, _segment_bytes),
        "TCP_USER_TIMEOUT": _Known(0, _between(0, _INT_MAX)),
        "TCP_FASTOPEN": _Known(0, _queued),
        **dict.fromkeys(
            ("TCP_DEFER_ACCEPT", "TCP_NOTSENT_LOWAT", "TCP_WINDOW_CLAMP"), _Known(0, _none_but(0))
        ),
    },
    _IP: {
        "IP_TOS": _Known(0, _class_of_traffic),
        "IP_TTL": _Known(64, _or_default(64, lowest=1)),
        "IP_BIND_ADDRESS_NO_PORT": _Known(),
        "IP_RECVTOS": _Known(0, _none_but(0)),
        "IP_MULTICAST_LOOP": _Known(1),
    },
    _IPV6: {
        "IPV6_V6ONLY": _Known(0, _of_ipv6_alone),
        "IPV6_UNICAST_HOPS": _Known(64, _or_default(64)),
        "IPV6_TCLASS": _Known(0, _class_of_ipv6),
        "IPV6_MULTICAST_LOOP": _Known(1, _between(0, 1)),
        "IPV6_RECVPKTINFO": _Known(0, _none_but(0)),
    },
}
_KNOWN: dict[tuple[int, int], _Known] = {
    (level, getattr(socket, name)): known
    for level, by_name in _BY_NAME.items()
    for name, known in by_name.items()
    # As far as this system has them.
    if hasattr(socket, name)
}
_TIME_LIMITS = {
    (_SOCKET, getattr(socket, name))
    for name in ("SO_RCVTIMEO", "SO_SNDTIMEO")
    if hasattr(socket, name)
}
_PREFIXES = {_SOCKET: ("SO_",), _TCP: ("TCP_",), _IP: ("IP_",), _IPV6: ("IPV6_",)}


# -- setting


def require_value(value: Any, size: int | None) -> None:
    """Raises as Python does before a system is asked. size: of no value, NULL."""
    if isinstance(value, int) and size is None:
        _require_int_of_c(value)
        return
    is_null = value is None and size is not None
    if not is_null and (size is not None or not _is_buffer(value)):
        raise modelled(TypeError(_is_no_value(value)))


def _is_no_value(value: object) -> str:
    """In the words of the running Python."""
    what = type(value).__name__
    if sys.version_info < (3, 15):
        return f"a bytes-like object is required, not '{what}'"
    if value is None:
        return "setsockopt() requires 4 arguments when the third argument is None"
    return f"socket option should be int, bytes-like object or None (got {what})"


def _require_int_of_c(value: int) -> None:
    if -_INT_MAX - 1 <= value <= _INT_MAX:
        return
    if sys.version_info < (3, 15):
        raise modelled(TypeError("a bytes-like object is required, not 'int'"))
    beyond = "greater than maximum" if value > 0 else "less than minimum"
    raise modelled(OverflowError(f"signed integer is {beyond}"))


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def set_option(opened: OpenSocket, level: int, name: int, value: Any) -> None:
    _require_level(opened, level, is_told=False)
    if (level, name) == (_SOCKET, socket.SO_LINGER):
        opened.set_option(level, name, _linger(value))
        return
    if (level, name) in _TIME_LIMITS:
        _require_endless(value)
        return
    known = _KNOWN.get((level, name))
    if known is None:
        raise NotKnown
    number = _as_int(level, value)
    if known.keeps is None:
        raise os_error(errno.ENOPROTOOPT)
    opened.set_option(level, name, known.keeps(opened, number))


def _linger(value: Any) -> bytes:
    whether, seconds = _LINGER.unpack_from(_as_bytes(value, _LINGER.size))
    return _LINGER.pack(bool(whether), seconds)


def _require_endless(value: Any) -> None:
    if any(_as_bytes(value, 16)):
        raise NotKnown


def _as_bytes(value: Any, least: int) -> bytes:
    if value is None:
        raise os_error(errno.EFAULT)
    if isinstance(value, int) or len(data := bytes(memoryview(value))) < least:
        raise os_error(errno.EINVAL)
    return data


def _as_int(level: int, value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    data = _as_bytes(value, 1 if level == _IP else _INT.size)
    return int(_INT.unpack_from(data)[0]) if len(data) >= _INT.size else data[0]


# -- telling


def option(opened: OpenSocket, level: int, name: int, bytes_max: int) -> int | bytes:
    """As `getsockopt`: a number, or with a number of bytes as many of them at most."""
    if not 0 <= bytes_max <= _BYTES_MAX:
        raise modelled(OSError("getsockopt buflen out of range"))
    _require_level(opened, level, is_told=True)
    value = _value(opened, level, name)
    if bytes_max:
        return (_INT.pack(value) if isinstance(value, int) else value)[:bytes_max]
    return value if isinstance(value, int) else int(_INT.unpack_from(value)[0])


def _value(opened: OpenSocket, level: int, name: int) -> int | bytes:
    if (level, name) == (_SOCKET, socket.SO_LINGER):
        return bytes(opened.option(name, level, bytes(_LINGER.size)))
    if (level, name) in _TIME_LIMITS:
        return bytes(16)
    known = _KNOWN.get((level, name))
    if known is None:
        raise NotKnown
    if known.tells is not None:
        return known.tells(opened)
    unset = known.unset
    if level == _SOCKET and _protocol(opened) == socket.IPPROTO_TCP:
        unset = _BUFFER_BYTES_OF_TCP.get(name, unset)
    return int(opened.option(name, level, unset))


# -- which a socket has


def _require_level(opened: OpenSocket, level: int, *, is_told: bool) -> None:
    """Raises where a socket of its kind has no options of this level."""
    if level == _SOCKET:
        return
    protocol = _protocol(opened)
    is_ipv6 = opened.family == socket.AF_INET6
    if not protocol:
        raise os_error(errno.EOPNOTSUPP)
    has_it = (level != _TCP or protocol == _TCP) and (level != _IPV6 or is_ipv6)
    if not has_it:
        raise os_error(errno.EOPNOTSUPP if is_told and not is_ipv6 else errno.ENOPROTOOPT)


def words_of(level: int, name: int) -> str:
    """Of an option, as a program writes it."""
    for prefix in _PREFIXES.get(level, ()):
        for each in sorted(dir(socket)):
            if each.startswith(prefix) and getattr(socket, each) == name:
                return each
    return f"option {name} of level {level}"


def instead_of(level: int, name: int) -> str:
    return INSTEAD.format(besides=_BESIDES.get(words_of(level, name), _ANOTHER))
