"""Induction with z3: of any number of streams and sessions, any limits and any length of a queue.

One query for each row of `TABLE` and each sentence: the invariant holds, the row is taken, and the
sentence does not hold afterwards. Where no such state exists, the row keeps the sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import z3

from registry.operations import Operation
from registry.states import Strategy
from registry.table import TABLE, Situation
from sim.bench.proving.induction import row_text
from sim.bench.proving.logic import Term
from sim.bench.proving.model import Asked, Limits, Model, Reading, met, outcomes
from sim.bench.proving.sentences import INVARIANTS, STRENGTHENING
from sim.bench.proving.step_sentences import COUNTING, STEPS, Change
from sim.exploration.verdict import Verdict

# Of one query; the slowest takes well under a second.
TIMEOUT_MS = 30_000

_STREAM, _SESSION = z3.DeclareSort("Stream"), z3.DeclareSort("Session")
_WORDS: dict[Situation | Strategy, Any] = {}
_STATES = ("UNKNOWN", "WAITING", "ACTIVE", "STOPPING", "OVERDUE", "DETACHED")


def _enumerated(name: str, words: list[Situation] | list[Strategy]) -> Any:
    sort, values = z3.EnumSort(name, [f"{name}.{word.name}" for word in words])
    _WORDS.update(zip(words, values, strict=True))
    return sort


_STATE = _enumerated("State", [Situation[name] for name in _STATES])
_STRATEGY = _enumerated("Strategy", list(Strategy))


class _Z3Logic:
    def value(self, word: Situation | Strategy) -> Term:
        return _WORDS[word]

    def all_of(self, *terms: Term) -> Term:
        return z3.And(*terms) if terms else z3.BoolVal(True)

    def any_of(self, *terms: Term) -> Term:
        return z3.Or(*terms) if terms else z3.BoolVal(False)

    def no(self, term: Term) -> Term:
        return z3.Not(term)

    def when(self, condition: Term, then: Term, otherwise: Term) -> Term:
        return z3.If(condition, then, otherwise)

    def each_stream(self, number: int, holds: Callable[..., Term]) -> Term:
        streams = [z3.FreshConst(_STREAM, "t") for _ in range(number)]
        return z3.ForAll(streams, z3.And(holds(*streams)))

    def some_stream(self, holds: Callable[[Term], Term]) -> Term:
        stream = z3.FreshConst(_STREAM, "t")
        return z3.Exists([stream], z3.And(holds(stream)))

    def each_session(self, holds: Callable[[Term], Term]) -> Term:
        session = z3.FreshConst(_SESSION, "z")
        return z3.ForAll([session], z3.And(holds(session)))


_LOGIC = _Z3Logic()
# Of a row that lets one in that waits: which.
_NEXT = z3.Const("w", _STREAM)
_OF_STREAM = {
    "state": _STATE,
    "session": _SESSION,
    "strategy": _STRATEGY,
    "serial": z3.IntSort(),
    "fencing_token": z3.IntSort(),
    "grace_deadline": z3.IntSort(),
    "wait_deadline": z3.IntSort(),
}
_OF_SESSION = {
    "is_held": z3.BoolSort(),
    "holder": _STREAM,
    "detached": z3.IntSort(),
    "enqueued": z3.IntSort(),
}


def _any_state() -> Reading:
    by_stream = {name: z3.Function(name, _STREAM, sort) for name, sort in _OF_STREAM.items()}
    by_session = {name: z3.Function(name, _SESSION, sort) for name, sort in _OF_SESSION.items()}
    of_all = {name: z3.Int(name) for name in ("detached_in_all", "serial_last")}
    model = Model(
        **by_stream,
        **by_session,
        **of_all,
        fencing_token_last=z3.Int("fencing_token_last"),
        closed=z3.Bool("closed"),
    )
    limits = Limits(**{each.name: z3.Int(each.name) for each in fields(Limits)})
    return Reading(_LOGIC, model, limits)


def _limits_hold(here: Reading, now: Term) -> Term:
    limits = [getattr(here.limits, each.name) for each in fields(Limits)]
    return z3.And(now > 0, *(limit >= 0 for limit in limits))


def _initial(here: Reading) -> Term:
    m = here.model
    t, z = z3.Const("t0", _STREAM), z3.Const("z0", _SESSION)
    unknown = z3.ForAll([t], m.state(t) == _WORDS[Situation.UNKNOWN])
    idle = z3.ForAll([z], z3.And(z3.Not(m.is_held(z)), m.detached(z) == 0, m.enqueued(z) == 0))
    counters = (m.serial_last, m.fencing_token_last, m.detached_in_all)
    return z3.And(unknown, idle, z3.Not(m.closed), *(counter == 0 for counter in counters))


@dataclass(slots=True)
class Unbounded:
    """unproved: what z3 refutes or does not decide, as text. follows: each invariant of the
    project, with the sentences of the strengthening that z3 needed for it."""

    queries: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    rows: int = 0
    sentences: int = len(STRENGTHENING)
    unproved: list[str] = field(default_factory=list)
    refuted: bool = False
    follows: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        if self.refuted:
            return Verdict.REFUTED
        return Verdict.INCONCLUSIVE if self.unproved else Verdict.PROVED

    def asked(self, solver: Any, what: str, *terms: Term) -> bool:
        """Whether nothing satisfies these terms, along with what the solver has."""
        begun = time.perf_counter()
        solver.push()
        solver.add(*terms)
        answer = solver.check()
        solver.pop()
        self.queries += 1
        self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)
        if answer == z3.unsat:
            return True
        self.refuted |= answer == z3.sat
        self.unproved.append(f"{what} ({'refuted' if answer == z3.sat else 'not decided'})")
        return False


def prove_any_size() -> Unbounded:
    begun = time.perf_counter()
    result = Unbounded()
    here = _any_state()
    _prove_initial(result, here)
    for row in TABLE:
        result.rows += 1
        for asked, taken, after in _taken(here, row):
            _prove_row(result, here, row_text(row), asked, taken, after)
    _derive(result, here)
    result.seconds = time.perf_counter() - begun
    return result


def _solver(*terms: Term) -> Any:
    solver = z3.Solver()
    solver.set("timeout", TIMEOUT_MS)
    solver.add(*terms)
    return solver


def _prove_initial(result: Unbounded, here: Reading) -> None:
    solver = _solver(_initial(here), _limits_hold(here, z3.Int("now")))
    for name, sentence in STRENGTHENING.items():
        result.asked(solver, f"at first: {name}", z3.Not(sentence(here)))


Taken = Iterator[tuple[Asked, Term, Reading]]


def _taken(here: Reading, row: tuple[type[Operation], Situation]) -> Taken:
    """Each way of taking the row: what was asked, that it is taken, and the state after it."""
    kind, situation = row
    asked = Asked(
        kind,
        z3.Const("x", _STREAM),
        z3.Const("s", _SESSION),
        z3.Const("strategy", _STRATEGY),
        z3.Int("now"),
    )
    for outcome in outcomes(here, asked, TABLE[row], _NEXT):
        is_taken = z3.And(met(here, asked, situation), outcome.condition)
        yield asked, is_taken, Reading(_LOGIC, outcome.after, here.limits)


def _prove_row(
    result: Unbounded, here: Reading, row: str, asked: Asked, taken: Term, after: Reading
) -> None:
    invariant = [sentence(here) for sentence in STRENGTHENING.values()]
    solver = _solver(_limits_hold(here, asked.now), *invariant, taken)
    for name, sentence in STRENGTHENING.items():
        result.asked(solver, f"{row}: {name}", z3.Not(sentence(after)))
    change = Change(here, asked, after, (asked.stream, _NEXT))
    for name, step in {**STEPS, **COUNTING}.items():
        result.asked(solver, f"{row}: {name}", z3.Not(step(change)))


def _derive(result: Unbounded, here: Reading) -> None:
    """The project's invariants from the strengthening, and from which of its sentences."""
    for name, invariant in INVARIANTS.items():
        solver = _solver(z3.Not(invariant(here)))
        named = {f"c{number}": given for number, given in enumerate(STRENGTHENING.items())}
        for label, (_, sentence) in named.items():
            solver.assert_and_track(sentence(here), label)
        if result.asked(solver, f"it follows: {name}"):
            solver.check()
            core = {str(label) for label in solver.unsat_core()}
            needed = (given for label, (given, _) in named.items() if label in core)
            result.follows[name] = tuple(needed)
