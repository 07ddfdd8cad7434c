"""No two gates are open, of any number of workers and streams, by z3.

Every step keeps `contract`, time passes, and of the workers it is assumed (registry/README.md):

- a gate is open until a lease after a request of its own was *sent*, on the worker's clock, which
  falls behind the store's by at most the margin within a lease (A1): so, on the store's clock, for
  less than the lease and the margin after the request was answered;
- who says that it has closed its gate, or that it leaves, has shut it for ever.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import z3

from sim.bench.proving.lease_contract import Lease, LeaseChange, contract
from sim.bench.proving.logic import Term
from sim.bench.proving.unbounded import _LOGIC, _STREAM, Unbounded, _solver

_T = z3.Const("t", _STREAM)


def _lease(when: str) -> Lease:
    return Lease(
        z3.Bool(f"is_held {when}"),
        z3.Const(f"holder {when}", _STREAM),
        z3.Int(f"until_ms {when}"),
        z3.Bool(f"closed {when}"),
        z3.Int(f"stop_ms {when}"),
    )


def _gates(when: str) -> tuple[Any, Any]:
    """Until when each gate may be open, on the store's clock; and whether it is shut for ever."""
    gate_ms = z3.Function(f"gate_ms {when}", _STREAM, z3.IntSort())
    return gate_ms, z3.Function(f"is_shut {when}", _STREAM, z3.BoolSort())


def _is_open(gates: tuple[Any, Any], now_ms: Term, stream: Term) -> Term:
    gate_ms, is_shut = gates
    return z3.And(z3.Not(is_shut(stream)), gate_ms(stream) > now_ms)


def _invariant(lease: Lease, gates: tuple[Any, Any], now_ms: Term, step: LeaseChange) -> Term:
    """Whose gate is open holds the session, and its time is not over; no more than a lease."""
    within = gates[0](_T) <= lease.until_ms + step.margin_ms
    one = z3.Implies(lease.is_held, lease.until_ms <= now_ms + step.lease_ms)
    holds = z3.And(lease.is_held, lease.holder == _T, z3.Not(lease.closed), within)
    return z3.And(one, z3.ForAll([_T], z3.Implies(_is_open(gates, now_ms, _T), holds)))


def _workers_keep_time(step: LeaseChange, before: tuple[Any, Any], after: tuple[Any, Any]) -> Term:
    (was_ms, was_shut), (gate_ms, is_shut) = before, after
    extended = z3.And(
        step.extends,
        step.by == _T,
        gate_ms(_T) <= step.now_ms + step.lease_ms + step.margin_ms,
    )
    closes = z3.And(step.now.closed, step.now.holder == step.by)
    return z3.And(
        z3.ForAll([_T], z3.Or(gate_ms(_T) <= was_ms(_T), extended)),
        z3.ForAll([_T], z3.Implies(was_shut(_T), is_shut(_T))),
        z3.Implies(z3.Or(step.leaves, closes), is_shut(step.by)),
    )


def prove_one_gate() -> Unbounded:
    begun = time.perf_counter()
    result = Unbounded(rows=1, sentences=1)
    lease_ms, margin_ms, grace_ms = z3.Ints("lease_ms margin_ms grace_ms")
    now_ms, later_ms = z3.Ints("now_ms later_ms")
    was, now, before, after = _lease("before"), _lease("after"), _gates("before"), _gates("after")
    by, extends, leaves = z3.Const("by", _STREAM), z3.Bool("extends"), z3.Bool("leaves")
    step = LeaseChange(was, now, now_ms, by, extends, leaves, lease_ms, margin_ms, grace_ms)
    solver = _solver(lease_ms > 0, margin_ms >= 0, grace_ms >= 0, later_ms >= now_ms)

    nobody = z3.And(z3.Not(was.is_held), z3.ForAll([_T], before[0](_T) == 0), now_ms >= 0)
    held = _invariant(was, before, now_ms, step)
    result.asked(solver, "at first", nobody, z3.Not(held))
    result.asked(solver, "time passes", held, z3.Not(_invariant(was, before, later_ms, step)))
    result.asked(
        solver,
        "a step",
        held,
        contract(_LOGIC, step),
        _workers_keep_time(step, before, after),
        z3.Not(_invariant(now, after, now_ms, step)),
    )
    t, u = z3.Consts("t1 u1", _STREAM)
    both = (_is_open(before, now_ms, each) for each in (t, u))
    result.asked(solver, "no two gates are open", held, t != u, *both)
    _needs_each_assumption(result, step, held, before, after)
    result.seconds = time.perf_counter() - begun
    return result


def _needs_each_assumption(
    result: Unbounded, step: LeaseChange, held: Term, before: Any, after: Any
) -> None:
    """A proof that does without the margin would prove too much: then it has to fail."""
    without = replace(step, margin_ms=z3.IntVal(0))
    solver = _solver(step.lease_ms > 0, step.margin_ms > 0, step.grace_ms >= 0)
    solver.add(held, contract(_LOGIC, without), _workers_keep_time(step, before, after))
    solver.add(z3.Not(_invariant(step.now, after, step.now_ms, step)))
    result.queries += 1
    if solver.check() == z3.unsat:
        result.unproved.append("the margin is not needed: the premises contradict themselves")
