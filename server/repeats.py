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
from typing import Protocol

from registry import State
from registry.attempts import Asked, Attempt, answered, judge, recent
from server.stores import wording
from server.stores.leased_registry import LeasedRegistry

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


class Repetitions(Protocol):
    """Who knows the repetitions: this process, or the store that workers share."""

    def admit(
        self,
        session_id: str,
        trace_id: str,
        attempt: Attempt,
        now: float,
        *,
        interrupts: bool,
    ) -> None:
        """Notes a prompt that is about to be registered. Raises Repetition.

        To be called in the same step as the register: the newer prompt could come in between.
        interrupts: whether the prompt would stop the newer one. One that waits for its turn, or is
        turned away from a busy session, stops no stream.
        """

    def answered(self, trace_id: str) -> None:
        """The client has all of the answer."""

    def over(self, session_id: str, trace_id: str, now: float, *, is_whole: bool) -> None:
        """The prompt was answered, whole or not; nothing changes for one that was refused."""


class StoreRepeats:
    """The store judges a prompt with its register, and hears of the answer with its leave."""

    def __init__(self, registry: LeasedRegistry) -> None:
        self._registry = registry

    def admit(
        self, session_id: str, trace_id: str, attempt: Attempt, now: float, *, interrupts: bool
    ) -> None:
        pass

    def answered(self, trace_id: str) -> None:
        self._registry.answered(trace_id)

    def over(self, session_id: str, trace_id: str, now: float, *, is_whole: bool) -> None:
        pass


class Repeats:
    """The recent prompts of each session that were not answered whole.

    window_s: for how long after its last attempt a prompt can be repeated; 0 for never.
    state_of: the state of a stream in the registry, None for one that is not there.
    """

    def __init__(self, *, window_s: float, state_of: Callable[[str], State | None]) -> None:
        self._window_s = window_s
        self._state_of = state_of
        # By session, the one touched last at the end; at most SESSIONS_MAX. Each has at most
        # PER_SESSION_MAX: those that are being answered, and those over for window_s at most.
        self._sessions: OrderedDict[str, tuple[Asked, ...]] = OrderedDict()

    def admit(
        self, session_id: str, trace_id: str, attempt: Attempt, now: float, *, interrupts: bool
    ) -> None:
        if self._window_s <= 0:
            return
        self._forget_old(now)
        judged = judge(
            recent(self._sessions.get(session_id, ()), now, self._window_s),
            attempt,
            trace_id,
            now,
            interrupts=interrupts,
            # By the state: a stream is superseded in the very step of the register.
            is_there=lambda name: self._state_of(name) in (State.ACTIVE, State.WAITING),
        )
        self._sessions[session_id] = judged.asked
        self._sessions.move_to_end(session_id)
        if judged.first is not None and judged.newer is not None:
            raise wording.repetition(trace_id, judged.first.stream, judged.newer.stream)

    def answered(self, trace_id: str) -> None:
        pass

    def over(self, session_id: str, trace_id: str, now: float, *, is_whole: bool) -> None:
        asked = answered(self._sessions.get(session_id, ()), trace_id, now, whole=is_whole)
        if asked:
            self._sessions[session_id] = asked
        else:
            self._sessions.pop(session_id, None)

    def __len__(self) -> int:
        return sum(len(asked) for asked in self._sessions.values())

    def _forget_old(self, now: float) -> None:
        while self._sessions:
            session_id, asked = next(iter(self._sessions.items()))
            is_surplus = len(self._sessions) >= SESSIONS_MAX
            if not is_surplus and recent(asked, now, self._window_s):
                return
            del self._sessions[session_id]
