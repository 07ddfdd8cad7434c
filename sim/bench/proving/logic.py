"""What the model is written in: read by Python on one state, or by z3 on all of them.

One text for both: so what is proved of any number of streams is what was compared with the code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol

from registry.states import Strategy
from registry.table import Situation

# A truth value, a number, a stream or a session: of Python, or an expression of z3's.
Term = Any


class Logic(Protocol):
    def value(self, word: Situation | Strategy) -> Term: ...

    def all_of(self, *terms: Term) -> Term: ...

    def any_of(self, *terms: Term) -> Term: ...

    def no(self, term: Term) -> Term: ...

    def when(self, condition: Term, then: Term, otherwise: Term) -> Term: ...

    def each_stream(self, number: int, holds: Callable[..., Term]) -> Term:
        """Whether it holds of every choice of streams; number: how many it is said of."""

    def some_stream(self, holds: Callable[[Term], Term]) -> Term: ...

    def each_session(self, holds: Callable[[Term], Term]) -> Term: ...


class PlainLogic:
    """Of one state: its streams and sessions are these."""

    def __init__(self, streams: Sequence[Term], sessions: Sequence[Term]) -> None:
        self.streams = streams
        self.sessions = sessions

    def value(self, word: Situation | Strategy) -> Term:
        return word

    def all_of(self, *terms: Term) -> Term:
        return all(terms)

    def any_of(self, *terms: Term) -> Term:
        return any(terms)

    def no(self, term: Term) -> Term:
        return not term

    def when(self, condition: Term, then: Term, otherwise: Term) -> Term:
        return then if condition else otherwise

    def each_stream(self, number: int, holds: Callable[..., Term]) -> Term:
        return all(holds(*chosen) for chosen in product(self.streams, repeat=number))

    def some_stream(self, holds: Callable[[Term], Term]) -> Term:
        return any(map(holds, self.streams))

    def each_session(self, holds: Callable[[Term], Term]) -> Term:
        return all(map(holds, self.sessions))
