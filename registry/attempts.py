"""Which prompts of a session were asked before: pure, for one process and for a store.

Prompts are ranked by when they first came. What is asked again after it was superseded, stopped or
failed keeps the rank of its first attempt; it is a repetition while a prompt of a higher rank is
there that it would stop. `server/repeats.py` has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

PER_SESSION_MAX = 16


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a register says of its prompt.

    digest: the same for two that ask the same; one word. repeats: the request says of itself that
    it is not the first attempt.
    """

    digest: str
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, with all its attempts. stream: the last of them that was let in."""

    digest: str
    rank: int
    stream: str
    # When the last attempt ended, or was last refused; None while it is being answered.
    over_at: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """asked: what is to be kept. first, newer: of a repetition, whose attempt is refused."""

    asked: tuple[Asked, ...]
    first: Asked | None = None
    newer: Asked | None = None


def judge(
    asked: tuple[Asked, ...],
    attempt: Attempt,
    stream: str,
    now: float,
    *,
    interrupts: bool,
    is_there: Callable[[str], bool],
) -> Judged:
    """A prompt that is about to be registered.

    interrupts: whether it would stop the newer one; else it is noted all the same, since from then
    on it may be the newer one that is protected. is_there: whether a stream is active or waits.
    """
    if any(each.stream == stream for each in asked):
        # Its register is asked again.
        return Judged(asked)
    backwards = asked[::-1]
    first = next(
        (e for e in backwards if e.digest == attempt.digest and not is_there(e.stream)), None
    )
    newest = next((each for each in backwards if is_there(each.stream)), None)
    if first is None:
        return Judged(_noted(asked, attempt, stream))
    if newest is None or newest.rank < first.rank:
        return Judged(_changed(asked, first, replace(first, stream=stream, over_at=None)))
    if not interrupts or (newest.digest == attempt.digest and not attempt.repeats):
        # Behind the newer one, or typed again and again.
        return Judged(_noted(asked, attempt, stream))
    return Judged(_changed(asked, first, replace(first, over_at=now)), first, newest)


def answered(
    asked: tuple[Asked, ...], stream: str, now: float, *, whole: bool
) -> tuple[Asked, ...]:
    """A stream has ended; what was answered whole may be asked again."""
    mine = next((each for each in asked if each.stream == stream), None)
    if mine is None:
        return asked
    if whole:
        return tuple(each for each in asked if each is not mine)
    if mine.over_at is not None:
        return asked
    return _changed(asked, mine, replace(mine, over_at=now))


def recent(asked: tuple[Asked, ...], now: float, window: float) -> tuple[Asked, ...]:
    """Without those whose last attempt is over for longer than that."""
    return tuple(e for e in asked if e.over_at is None or now - e.over_at <= window)


# How long a store keeps what nobody asks for again; at least, as streams may run for longer.
KEEP_MS = 3_600_000


def as_text(asked: tuple[Asked, ...]) -> str:
    """A line for each, as stores keep it; times are whole."""
    return "\n".join(
        f"{e.rank} {'-' if e.over_at is None else int(e.over_at)} {e.digest} {e.stream}"
        for e in asked
    )


def from_text(text: str) -> tuple[Asked, ...]:
    asked = []
    # `splitlines` would also split at what a name may contain.
    for line in filter(None, text.split("\n")):
        rank, over, digest, stream = line.split(" ", 3)
        asked.append(Asked(digest, int(rank), stream, None if over == "-" else int(over)))
    return tuple(asked)


def _noted(asked: tuple[Asked, ...], attempt: Attempt, stream: str) -> tuple[Asked, ...]:
    rank = asked[-1].rank + 1 if asked else 1
    return (*asked, Asked(attempt.digest, rank, stream))[-PER_SESSION_MAX:]


def _changed(asked: tuple[Asked, ...], old: Asked, new: Asked) -> tuple[Asked, ...]:
    return tuple(new if each is old else each for each in asked)
