"""Repetitions: prompts that a client's library sends again by itself, after an error.

A prompt ended because a newer one of its session came; its library repeats it, and as the newest
of the session it would stop the one that stopped it. No status keeps every library from that, so
the server knows a repetition when it sees one, and refuses it.

Prompts are ranked by when they first came. What is asked again after it was superseded, stopped
or failed keeps the rank of its first attempt: it is refused while a prompt of a higher rank is
ACTIVE or WAITING, and else it is let in, with the old rank. So a repetition that finds its session
free still gives way to the repetition of a newer prompt, and the newest wins if both fail. Once
the newer one is over there is nothing to protect, and a person may ask again.

The same text typed again on purpose is not a repetition: neither while its first attempt still
runs, nor where the newest prompt of the session says the same – unless the request itself says
that it is one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry import State
from server.errors import ApiError

PER_SESSION_MAX = 16
SESSIONS_MAX = 4096
# Headers that count attempts, with the number of the first: OpenAI's libraries, Envoy and Istio.
# A request without them, or with the first number, may be either: LiteLLM's repetitions look so.
_ATTEMPTS = {"x-stainless-retry-count": 0, "x-envoy-attempt-count": 1}


def digest_of(content: bytes) -> bytes:
    """What is the same for two requests that ask Ollama the same: of the encoded body."""
    # The names in the order in which they were sent: a library that repeats sends the same.
    return hashlib.blake2b(content, digest_size=16).digest()


def says_it_repeats(headers: Mapping[str, str]) -> bool:
    """Whether a request says of itself that it is not the first attempt."""
    for name, first in _ATTEMPTS.items():
        count = headers.get(name, "")
        if count.isdecimal() and len(count) < 10 and int(count) > first:
            return True
    return False


@dataclass(slots=True)
class _Asked:
    """One prompt of a session, with all its attempts. trace_id: of the last one let in."""

    digest: bytes
    rank: int
    trace_id: str
    # When the last attempt ended, or was last refused; None while it is being answered.
    over_at: float | None = None


class Repeats:
    """The recent prompts of each session that were not answered whole.

    window_s: for how long after its last attempt a prompt can be repeated; 0 for never.
    state_of: the state of a stream in the registry, None for one that is not there.
    """

    def __init__(self, *, window_s: float, state_of: Callable[[str], State | None]) -> None:
        self._window_s = window_s
        self._state_of = state_of
        # By session, the one touched last at the end; at most SESSIONS_MAX. In each, by rank, at
        # most PER_SESSION_MAX: those that are being answered, and those over for window_s at most.
        self._sessions: OrderedDict[str, list[_Asked]] = OrderedDict()

    def admit(
        self,
        session_id: str,
        trace_id: str,
        digest: bytes,
        now: float,
        *,
        repeats: bool,
        interrupts: bool,
    ) -> None:
        """Notes a prompt that is about to be registered. Raises ApiError (400) for a repetition.

        To be called in the same step as the register: the newer prompt could come in between.
        repeats: the request says so itself. interrupts: whether the prompt would stop the newer
        one. One that waits for its turn, or is turned away from a busy session, stops no stream:
        it is noted all the same, since from then on it may be the newer one that is protected.
        """
        if self._window_s <= 0:
            return
        self._forget_old(now)
        asked = self._sessions.setdefault(session_id, [])
        self._sessions.move_to_end(session_id)
        asked[:] = [each for each in asked if not self._is_old(each, now)]
        backwards = asked[::-1]
        dead = (each for each in backwards if each.digest == digest and self._is_dead(each))
        first = next(dead, None)
        newest = next((each for each in backwards if not self._is_dead(each)), None)
        if first is None:
            self._note(asked, digest, trace_id)
        elif newest is None or newest.rank < first.rank:
            first.trace_id = trace_id
            first.over_at = None
        elif not interrupts or (newest.digest == digest and not repeats):
            # Behind the newer one, or typed again and again.
            self._note(asked, digest, trace_id)
        else:
            first.over_at = now
            raise _refusal(first, newest)

    @staticmethod
    def _note(asked: list[_Asked], digest: bytes, trace_id: str) -> None:
        rank = asked[-1].rank + 1 if asked else 1
        asked.append(_Asked(digest, rank, trace_id))
        del asked[:-PER_SESSION_MAX]

    def over(self, session_id: str, trace_id: str, now: float, *, is_whole: bool) -> None:
        """The prompt was answered, whole or not; nothing changes for one that was refused."""
        asked = self._sessions.get(session_id, [])
        for each in asked:
            if each.trace_id == trace_id and each.over_at is None:
                each.over_at = now
                if is_whole:
                    asked.remove(each)
                break
        if not asked:
            self._sessions.pop(session_id, None)

    def __len__(self) -> int:
        return sum(len(asked) for asked in self._sessions.values())

    def _is_dead(self, asked: _Asked) -> bool:
        # By the state, not by over_at: a stream is superseded in the very step of the register.
        return self._state_of(asked.trace_id) not in (State.ACTIVE, State.WAITING)

    def _is_old(self, asked: _Asked, now: float) -> bool:
        return asked.over_at is not None and now - asked.over_at > self._window_s

    def _forget_old(self, now: float) -> None:
        while self._sessions:
            session_id, asked = next(iter(self._sessions.items()))
            is_surplus = len(self._sessions) >= SESSIONS_MAX
            if not is_surplus and not all(self._is_old(each, now) for each in asked):
                return
            del self._sessions[session_id]


def _refusal(first: _Asked, newest: _Asked) -> ApiError:
    return ApiError(
        400,
        "repetition",
        f"this prompt was asked before as stream {first.trace_id}, which was not answered whole, "
        f"and stream {newest.trace_id} is newer in its session: a repetition stops no newer "
        f"prompt. Wait for that one, or cancel it, and ask again (JARVIS_REPEAT_SECONDS)",
    )
