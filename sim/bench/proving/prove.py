"""`onestream prove`: what holds of the tables in every state, for any size or up to a cut-off."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from sim.bench.proving.conformance import SAME_SENTENCE, conformance_table, sentences_that_differ
from sim.bench.proving.induction import Induction, induct
from sim.bench.proving.lease_states import SMALL as LEASE_SMALL
from sim.bench.proving.lease_states import WHOLE as LEASE_WHOLE
from sim.bench.proving.lease_states import lease_table
from sim.bench.proving.locality import locality_table
from sim.bench.proving.protocol_states import SMALL, WHOLE, protocol_table
from sim.counted import counted
from sim.exploration.verdict import Verdict

EXTRA = "prove"


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was proved, or not. what: in a sentence. how: figures, as text."""

    name: str
    what: str
    bound: str
    verdict: Verdict
    how: str
    seconds: float
    violated: str = ""
    counterexample: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 2)}


ANY = "any number of streams and sessions, any limits"
# Where less is asked for: one of this number of the small cut-off's states.
QUICK_EVERY = 10


def prove(
    *,
    quick: bool = False,
    part: str | None = None,
    on_part: Callable[[Part], None] = lambda part: None,
) -> list[Part]:
    """quick: with the small cut-offs, as the tests do. part: this one alone."""
    proved = []
    for name in PARTS if part is None else [part]:
        found = PARTS[name](quick)
        on_part(found)
        proved.append(found)
    return proved


def verdict_of(parts: list[Part]) -> Verdict:
    """The worst of them."""
    found = {part.verdict for part in parts}
    worst_first = (Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.PROVED)
    return next(verdict for verdict in worst_first if verdict in found)


def _protocol(quick: bool) -> Part:
    return _of_induction(
        "protocol",
        "each operation of production's `apply` keeps the invariants, does what it is for, and its "
        "effects are exactly what has changed",
        "one whole session of up to 3 that wait and 2 that are detached, beside others",
        induct(protocol_table(SMALL if quick else WHOLE)),
    )


def _cut_off(quick: bool) -> Part:
    return _of_induction(
        "cut-off",
        "an operation reads nothing of other streams and sessions; numbers count by order alone",
        "the same states; so of any number of other sessions",
        induct(locality_table()),
    )


def _model(quick: bool) -> Part:
    return _of_induction(
        "model",
        "the model that z3 is given has the situations and the rows of the code",
        "the same states",
        induct(conformance_table()),
    )


def _leases(quick: bool) -> Part:
    return _of_induction(
        "leases",
        "each operation of production's `apply` keeps the properties of leases, on both sides of "
        "each of their times",
        "one whole session, with a clock of whole milliseconds",
        induct(lease_table(LEASE_SMALL if quick else LEASE_WHOLE)),
    )


def _of_induction(name: str, what: str, bound: str, found: Induction) -> Part:
    states, steps = counted(found.states, "state"), counted(found.steps, "step")
    how = f"{states}, {steps}, {counted(found.rows, 'row')} taken"
    if found.rows_missing:
        how += f"; never taken: {', '.join(found.rows_missing)}"
    wrong = found.violated or ""
    return Part(name, what, bound, found.verdict, how, found.seconds, wrong, found.counterexample)


def _sentences(quick: bool) -> Part:
    begun = time.perf_counter()
    differ = sentences_that_differ(QUICK_EVERY if quick else 1)
    return Part(
        "sentences",
        "the sentences that z3 is given say what the predicates of registry/invariants.py say",
        "the same states, and each with one stream changed",
        Verdict.REFUTED if differ else Verdict.PROVED,
        "compared on good states and bad ones",
        time.perf_counter() - begun,
        f"{SAME_SENTENCE}: {', '.join(differ)}" if differ else "",
    )


def has_z3() -> bool:
    return find_spec("z3") is not None


def _without_z3(name: str, what: str) -> Part:
    how = f"not asked: it needs z3, which the extra `{EXTRA}` installs"
    return Part(name, what, ANY, Verdict.INCONCLUSIVE, how, 0.0)


def _any_size(quick: bool) -> Part:
    name, what = "any-size", "each row of the table keeps each sentence of the invariant"
    if not has_z3():
        return _without_z3(name, what)
    from sim.bench.proving.unbounded import prove_any_size

    found = prove_any_size()
    follows = "; ".join(f"{name} from {len(given)}" for name, given in found.follows.items())
    how = (
        f"{found.rows} rows × {found.sentences} sentences and steps, {found.queries} queries; "
        f"follow: {follows}"
    )
    wrong = "; ".join(found.unproved)
    return Part(name, what, ANY, found.verdict, how, found.seconds, wrong)


def _lease_any_size(quick: bool) -> Part:
    name = "leases-any-size"
    what = "no two gates of a session are open, while the store loses no writes"
    if not has_z3():
        return _without_z3(name, what)
    from sim.bench.proving.lease_unbounded import prove_one_gate

    found = prove_one_gate()
    bound = "any number of workers and times; clocks drift by at most the margin within a lease"
    how = f"{found.queries} queries, from what each step of the code keeps"
    return Part(name, what, bound, found.verdict, how, found.seconds, "; ".join(found.unproved))


PARTS: dict[str, Callable[[bool], Part]] = {
    "protocol": _protocol,
    "cut-off": _cut_off,
    "model": _model,
    "sentences": _sentences,
    "any-size": _any_size,
    "leases": _leases,
    "leases-any-size": _lease_any_size,
}
