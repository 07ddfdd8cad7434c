"""Where the members of a set lie in its table, which only its memory tells.

Two sets that iterate alike may take the next members in another order: one has once been larger, or
a member that was discarded has left its slot behind. And `pop` goes on from where it was.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

from sim.kernel.errors import Opaque
from sim.kernel.living import address_of

# Of PySetObject in CPython's setobject.h: how many slots were ever filled, how many are in use,
# the size of the table less one, its address, the set's hash, and where `pop` goes on.
_HEAD = struct.Struct("nnnPnn")
_BEFORE_HEAD = object.__basicsize__
# A slot has the address of its member, and its hash, which is -1 for one that was discarded.
_SLOT = struct.Struct("Pn")
_DISCARDED = -1
# How it is written in a layout.
_DISCARDED_SLOT = 2


# Without an audit event, unlike `id` and `ctypes.string_at`: ours are heard.
bytes_at = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_BITS = 8 * struct.calcsize("P")


def address_in_memory(each: object) -> int:
    """What `address_of` makes its number of: four bits further left, those that fall out right."""
    turned = address_of(each) % (1 << _BITS)
    return (turned << 4) % (1 << _BITS) | turned >> (_BITS - 4)


LISTED = "keep its members in a dict or a list"


class _Gaps:
    """The slots that members have left which were discarded, in a set that has none by value.

    Where those lay that hash by address is another slot in each run, and nothing tells whose slots
    they were; a later member may take one, or another. were_met: since this was last set to False.
    are_refused: they raise Opaque.
    """

    were_met = False
    are_refused = False

    def note(self) -> None:
        self.were_met = True
        if self.are_refused:
            raise Opaque("a set whose former members may hash by address", LISTED)


GAPS = _Gaps()
"""Of the search that is under way."""


def layout_of_set(each: Any) -> bytes:
    """Raises Opaque where it cannot be read."""
    if not _IS_KNOWN:
        raise Opaque("a set, whose memory is unknown on this interpreter", LISTED)
    return _layout(each)


def layout_around_one(each: Any) -> bytes:
    """Of a set whose one member hashes by address, where that alone has ever been in its table.

    Not where it lies, which is another slot in each run: how a later one lies to it hangs on the
    address as well, whatever was chosen.
    """
    layout = layout_of_set(each)
    goes_on_at, _, slots = layout.partition(b" ")
    is_alone = goes_on_at == b"0" and slots.count(0) == len(slots) - 1
    if is_alone:
        return b"one of %d" % len(slots)
    GAPS.note()
    return layout


def layout_of_empty(each: Any) -> bytes:
    """Of a set without members."""
    layout = layout_of_set(each)
    if _DISCARDED_SLOT in layout.partition(b" ")[2]:
        GAPS.note()
    return layout


def _layout(each: Any) -> bytes:
    head = bytes_at(address_in_memory(each) + _BEFORE_HEAD, _HEAD.size)
    filled, _, mask, table, _, goes_on_at = _HEAD.unpack(head)
    if not filled:
        return b"%d %d" % (mask, goes_on_at)
    slots = _SLOT.iter_unpack(bytes_at(table, (mask + 1) * _SLOT.size))
    of = (1, _DISCARDED_SLOT)
    kinds = bytes(of[hashed == _DISCARDED] if member else 0 for member, hashed in slots)
    return b"%d " % goes_on_at + kinds


def _is_known() -> bool:
    """Whether a set of which all is known looks as it has to."""
    known = {1, 2, 3}
    known.discard(2)
    if address_in_memory(known) != id(known) or set.__basicsize__ < _BEFORE_HEAD + _HEAD.size:
        return False
    size = _HEAD.unpack(bytes_at(address_in_memory(known) + _BEFORE_HEAD, _HEAD.size))
    return size[:3] == (3, 2, 7) and _layout(known) == b"0 \0\1\2\1\0\0\0\0"


_IS_KNOWN = _is_known()
