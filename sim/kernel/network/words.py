"""What travels, in words: for the names of options, and the rows of a counterexample."""

from __future__ import annotations

from sim.kernel.network.connection import SegmentKind
from sim.kernel.network.streams import StreamSocket

SHOWN_MAX = 32
"""So much of what arrives is shown, in characters."""


def excerpt(data: bytes) -> str:
    """Its first line, where it is a text to be read."""
    first = data[: 4 * SHOWN_MAX].decode(errors="replace").split("\n")[0].strip()
    if not first or not first.isprintable() or "\N{REPLACEMENT CHARACTER}" in first:
        return ""
    shown = first if len(first) <= SHOWN_MAX else first[: SHOWN_MAX - 1] + "…"
    return f": {shown}"


def words_of_first(sender: StreamSocket) -> str:
    """The first segment of what it sends."""
    assert sender.outgoing is not None
    kind, data, _ = sender.outgoing.under_way[0]
    one, other = sender.words, sender.network.words_of(sender.peer)
    match kind:
        case SegmentKind.REQUEST:
            return f"{one} asks {other} for a connection"
        case SegmentKind.ANSWER:
            return f"{one} answers {other}"
        case SegmentKind.CONFIRMATION:
            return f"{other} learns that {one} is connected to it"
        case SegmentKind.END:
            return f"the end of what {one} sends reaches {other}"
        case SegmentKind.RESET:
            return f"a reset by {one} reaches {other}"
        case SegmentKind.DATA:
            many = "byte" if len(data) == 1 else "bytes"
            return f"{len(data)} {many} from {one} reach{'es' * (len(data) == 1)} {other}"
