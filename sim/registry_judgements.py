"""What a registry is judged by at its bench: the more it offers, the more is asked of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from registry import StreamRegistry
from registry.invariants import STATE_INVARIANTS, StateInvariant
from registry.protocol import State, Strategy
from registry.stop_signal import StopSignals
from sim.bench import LIMITS, QUEUE_S, Bench, Request
from sim.judgement import Always, Judgement, Judgements, Moment
from sim.observed_protocol import ObservedProtocol
from sim.world import World

INSTANT_S = 1e-6
"""So much virtual time passes by readings of the clock alone."""


def make_bench(world: World, cls: type[Any]) -> Bench:
    """The registry of a class under check, made afresh, with its bench."""
    if issubclass(cls, StreamRegistry):
        stop_signals = StopSignals()
        protocol = ObservedProtocol(world, **LIMITS)
        ours = cls(protocol=protocol, stop_signals=stop_signals)
        return Bench(world, ours, OURS, stop_signals=stop_signals)
    registry = cls()
    shows_states = hasattr(registry, "snapshot") and hasattr(registry, "stream")
    judgements = WITH_STATES if shows_states else WITHOUT_STATES
    return Bench(world, registry, judgements, shows_states=shows_states)


# -- at every poll


def _limit_s(bench: Bench, request: Request, graces: int) -> float:
    """How long a register may wait for its answer."""
    if request.strategy is Strategy.REJECT:
        return INSTANT_S
    if request.strategy is Strategy.ENQUEUE:
        return QUEUE_S + bench.slack_s
    return bench.grace_s * graces + bench.slack_s


def _none_waits_for(bench: Bench, graces_of: Callable[[Request], int]) -> bool:
    now = bench.world.now
    return all(
        now - request.asked_at <= _limit_s(bench, request, graces_of(request))
        for request in bench.requests
        if request.answer is None and request.task is not None
    )


def _one(request: Request) -> int:
    return 1


def _one_for_each_rival(request: Request) -> int:
    return request.rivals


def cancels_have_reasons(bench: Bench) -> bool:
    return all(
        request.may_be_cancelled
        for request in bench.requests
        if request.task is not None and request.task.cancelling()
    )


def no_grace_is_overrun(bench: Bench) -> bool:
    """Who stops is detached or overdue when its grace is over, also if nobody waits."""
    latest = bench.world.now - bench.slack_s
    return all(
        stream.overdue or stream.grace_deadline is None or stream.grace_deadline >= latest
        for stream in bench.registry.snapshot().in_state(State.STOPPING)
    )


def state_holds(invariant: StateInvariant, bench: Bench) -> bool:
    return invariant.holds(bench.registry.snapshot())


# -- of a register


def _answered_within(
    graces_of: Callable[[Request], int], bench: Bench, request: Request, waited_s: float
) -> str | None:
    in_time = waited_s <= _limit_s(bench, request, graces_of(request))
    return None if in_time else f"{request.name} waited {waited_s:.3f} s"


def free_session_is_instant(bench: Bench, request: Request, waited_s: float) -> str | None:
    return _waited_for_none(request, waited_s, INSTANT_S)


def free_session_is_prompt(bench: Bench, request: Request, waited_s: float) -> str | None:
    return _waited_for_none(request, waited_s, bench.slack_s)


def _waited_for_none(request: Request, waited_s: float, limit_s: float) -> str | None:
    if not request.was_free or waited_s <= limit_s:
        return None
    return f"{request.name} waited {waited_s:.3f} s for a free session"


def one_active(bench: Bench, request: Request) -> str | None:
    active = [other.name for other in bench.of_session(request) if other.is_active]
    return f"{' and '.join(active)} are active" if len(active) > 1 else None


def who_left_is_gone(bench: Bench, request: Request) -> str | None:
    """It neither waits any more nor holds the session."""
    state = bench.state_of(request)
    at_work = state in (State.WAITING, State.ACTIVE)
    return f"{request.name} has left, and is {state}" if at_work else None


# -- of a stream at work


def overlap_is_fenced_off(bench: Bench, request: Request) -> str | None:
    """S3, for streams that work upstream from their admission until their task is over."""
    return _overlap(bench, request, is_logged=lambda other: True)


def overlap_is_logged(bench: Bench, request: Request) -> str | None:
    """The same, and that the log has said so."""
    return _overlap(bench, request, lambda other: bench.has_logged_timeout_of(other))


def _overlap(bench: Bench, request: Request, is_logged: Callable[[Request], bool]) -> str | None:
    for other in bench.of_session(request):
        if other is request or not other.works_upstream:
            continue
        state = bench.state_of(other)
        if state is not State.DETACHED or not is_logged(other):
            return f"{other.name} is {state} while {request.name} begins"
        bench.world.reached("upstream overlap, fenced off")
    return None


def only_active_emits(bench: Bench, request: Request, content: str) -> str | None:
    state = bench.state_of(request)
    if state is State.ACTIVE:
        return None
    return f"{request.name} emitted {content!r} in state {state}"


# -- of the end


def closed_in_time(bench: Bench, lasted_s: float) -> str | None:
    in_time = lasted_s <= bench.grace_s + bench.slack_s
    return None if in_time else f"close took {lasted_s:.3f} s"


def no_entry_is_left(bench: Bench) -> str | None:
    leaked = [each.name for each in bench.requests if _reaches(bench.registry, each.task)]
    return f"entries of {', '.join(leaked)}" if leaked else None


def no_stream_is_left(bench: Bench) -> str | None:
    left = bench.registry.snapshot().streams
    return f"{left}" if left else None


def no_timer_is_left(bench: Bench) -> str | None:
    timers = bench.world.timers
    return f"timers {timers}" if timers else None


def no_stop_signal_is_left(bench: Bench) -> str | None:
    flags = len(bench.stop_signals)
    return f"{flags} stop signals" if flags else None


def _reaches(registry: object, task: object) -> bool:
    """Whether the task, and so the entry that holds it, is reachable from the registry."""
    if task is None:
        return False
    seen = {id(registry)}
    todo = [registry]
    while todo:
        for each in gc.get_referents(todo.pop()):
            if each is task:
                return True
            if id(each) in seen or isinstance(each, _NOT_FOLLOWED):
                continue
            seen.add(id(each))
            todo.append(each)
    return False


# The world and the loop know every task; what a registry keeps, it keeps in its own objects.
_NOT_FOLLOWED = (
    type,
    ModuleType,
    FunctionType,
    MethodType,
    str,
    int,
    float,
    asyncio.AbstractEventLoop,
    World,
    logging.Logger,
)


# -- who is asked what

_ENDS = (
    Judgement("L5 shutdown", Moment.CLOSED, closed_in_time),
    Judgement("L3 no_leak", Moment.QUIET, no_entry_is_left),
)
_OF_STATES = (
    Judgement("S2 only_active_emits", Moment.EMITS, only_active_emits),
    *_ENDS,
    Judgement("L3 no_leak", Moment.QUIET, no_stream_is_left),
)
_OF_OTHERS = (
    Always("L1 admission", partial(_none_waits_for, graces_of=_one_for_each_rival)),
    Always("S8 identity", cancels_have_reasons),
    Judgement("L1 admission", Moment.ANSWERED, partial(_answered_within, _one_for_each_rival)),
    Judgement("S6 isolation", Moment.ANSWERED, free_session_is_prompt),
)

WITHOUT_STATES: Judgements = (
    *_OF_OTHERS,
    Judgement("S1 one_active", Moment.ADMITTED, one_active),
    *_ENDS,
)
"""Asked of a registry of which no more is known than the note's three methods."""

WITH_STATES: Judgements = (
    *_OF_OTHERS,
    *(Always(each.name, partial(state_holds, each)) for each in STATE_INVARIANTS),
    Judgement("S3 no_silent_overlap", Moment.BEGINS, overlap_is_fenced_off),
    *_OF_STATES,
)
"""Asked of one that shows its states."""

OURS: Judgements = (
    Always("L1 admission", partial(_none_waits_for, graces_of=_one)),
    Always("S8 identity", cancels_have_reasons),
    Always("L1 admission", no_grace_is_overrun),
    Judgement("L1 admission", Moment.ANSWERED, partial(_answered_within, _one)),
    Judgement("S6 isolation", Moment.ANSWERED, free_session_is_instant),
    Judgement("L3 no_leak", Moment.LEFT, who_left_is_gone),
    Judgement("S3 no_silent_overlap", Moment.BEGINS, overlap_is_logged),
    *_OF_STATES,
    Judgement("L3 no_leak", Moment.QUIET, no_timer_is_left),
    Judgement("L3 no_leak", Moment.QUIET, no_stop_signal_is_left),
)
"""Asked of the production registry: all that it promises, and its protocol is observed besides."""
