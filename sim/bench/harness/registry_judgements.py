"""The judgements of a registry in its bench: the more it offers, the more is checked."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from registry import StreamRegistry
from registry.invariants import STATE_INVARIANTS, StateInvariant
from registry.protocol import State, Strategy
from registry.stop_signal import StopSignals
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment
from sim.bench.harness.observed_protocol import ObservedProtocol
from sim.bench.harness.registry_bench import LIMITS, QUEUE_S, Bench, Request
from sim.kernel.world import World

Graces = Callable[[Request], int]
INSTANT_S = 1e-6
"""How much virtual time passes by readings of the clock alone, in seconds."""


def make_bench(world: World, cls: type[Any]) -> Bench:
    """The registry of a class under check, made afresh, with its bench."""
    if issubclass(cls, StreamRegistry):
        stop_signals = StopSignals()
        protocol = ObservedProtocol(world, **LIMITS)
        ours = cls(protocol=protocol, stop_signals=stop_signals)
        bench = Bench(world, ours, OURS, stop_signals=stop_signals)
        protocol.watch(ours, bench.logged)
        return bench
    registry = cls()
    shows_states = hasattr(registry, "snapshot") and hasattr(registry, "stream")
    judgements = WITH_STATES if shows_states else WITHOUT_STATES
    return Bench(world, registry, judgements, shows_states=shows_states)


# -- of a register; graces_of: for how many graces it may wait, if it interrupts


def none_waits_too_long(graces_of: Graces, bench: Bench) -> bool:
    now = bench.world.now
    return all(
        now - request.asked_at <= _limit_s(bench, request, graces_of)
        for request in bench.requests
        if request.answer is None and request.task is not None
    )


def who_waits_too_long(graces_of: Graces, bench: Bench) -> str:
    late = (
        f"{request.name}'s register ({bench.world.now - request.asked_at:.3f} s)"
        for request in bench.requests
        if request.answer is None
        and request.task is not None
        and bench.world.now - request.asked_at > _limit_s(bench, request, graces_of)
    )
    return f"{' and '.join(late)} not answered"


def answered_in_time(
    graces_of: Graces, bench: Bench, request: Request, waited_s: float
) -> Iterator[str]:
    if waited_s > _limit_s(bench, request, graces_of):
        yield f"{request.name} waited {waited_s:.3f} s"


def _limit_s(bench: Bench, request: Request, graces_of: Graces) -> float:
    if request.strategy is Strategy.REJECT:
        return INSTANT_S
    if request.strategy is Strategy.ENQUEUE:
        return QUEUE_S + bench.slack_s
    return bench.grace_s * graces_of(request) + bench.slack_s


def answered_promptly(bench: Bench, request: Request, waited_s: float) -> Iterator[str]:
    if request.was_free and waited_s > bench.slack_s:
        yield f"{request.name} waited {waited_s:.3f} s for a free session"


def answered_at_once(bench: Bench, request: Request, waited_s: float) -> Iterator[str]:
    if request.was_free and waited_s > INSTANT_S:
        yield f"{request.name} waited {waited_s:.3f} s for a free session"


def one_active(bench: Bench, request: Request) -> Iterator[str]:
    active = [other.name for other in bench.of_session(request) if other.is_active]
    if len(active) > 1:
        yield f"{' and '.join(active)} are active"


def who_left_is_gone(bench: Bench, request: Request) -> Iterator[str]:
    """It neither waits any more nor holds the session."""
    if (state := bench.state_of(request)) in (State.WAITING, State.ACTIVE):
        yield f"{request.name} has left, and is {state}"


def left_is_not_admitted(bench: Bench, request: Request, waited_s: float) -> Iterator[str]:
    if request.has_left and request.answer == "admitted":
        yield f"{request.name}'s register returned after its caller had left"


def refused_for_a_reason(bench: Bench, request: Request, waited_s: float) -> Iterator[str]:
    """A free session takes whom it is asked to take, unless that one was stopped meanwhile."""
    is_refused = request.refusal is not None and not request.has_reason and not bench.is_closed
    if is_refused and request.was_free:
        yield f"{request.name}: {request.refusal!r} for a free session"


def refused_for_the_others_failure(
    bench: Bench, request: Request, waited_s: float
) -> Iterator[str]:
    """Where no other reason is left: none holds the session, and the grace is not over."""
    if request.refusal is None or request.has_reason or bench.is_closed:
        return
    if waited_s > bench.grace_s - bench.slack_s:
        return
    others = [each for each in bench.of_session(request) if each is not request]
    if any(each.failure is not None for each in others) and all(map(_is_over, others)):
        yield f"{request.name}: {request.refusal!r}"


def raised_as_if_left(bench: Bench, request: Request) -> Iterator[str]:
    """CancelledError where nothing was cancelled: the older stream's, say."""
    waited_s = request.waited_s or 0.0
    if not request.has_reason and waited_s < bench.grace_s - bench.slack_s:
        yield f"{request.name}'s register raised CancelledError, and its caller has not left"


def repeated_as_if_left(bench: Bench, request: Request) -> Iterator[str]:
    yield f"{request.name} was registered again, which raised CancelledError, and nobody stopped it"


def _is_over(request: Request) -> bool:
    return request.task is not None and request.task.done()


def repeated_in_time(bench: Bench, request: Request, waited_s: float) -> Iterator[str]:
    """As long as all that could come before it."""
    if waited_s > bench.grace_s * len(bench.requests) + bench.slack_s:
        yield f"{request.name} was registered again, and waited {waited_s:.3f} s"


# -- of cancels by name


def stops_arrive(bench: Bench) -> bool:
    """A cancel by name has stopped its stream, whatever it answered."""
    now = bench.world.now
    return all(
        request.stop_due_at is None
        or now <= request.stop_due_at
        or not request.is_active
        or (request.task is not None and request.task.cancelling())
        for request in bench.to_be_stopped
    )


def true_of_a_stream(
    bench: Bench, name: str, named: list[Request], answer: object
) -> Iterator[str]:
    if answer and not named:
        yield f"cancel({name}) answered {answer!r}, and no stream of this name was there"


def false_stops_nothing(
    bench: Bench, name: str, named: list[Request], answer: object
) -> Iterator[str]:
    for request in named if answer is not None and not answer else ():
        if not request.has_reason and request.task is not None and request.task.cancelling():
            yield f"cancel({name}) answered {answer!r}, and {name} was stopped"


def nothing_is_raised(bench: Bench, what: str, exc: BaseException) -> Iterator[str]:
    yield f"{what} raised {exc!r}"


# -- of streams


def cancels_have_reasons(bench: Bench) -> bool:
    return all(
        request.has_reason
        for request in bench.requests
        if request.task is not None and request.task.cancelling()
    )


def no_grace_is_overrun(bench: Bench) -> bool:
    """A stopping stream is detached or overdue after its grace, also if none waits for it."""
    latest = bench.world.now - bench.slack_s
    return all(
        stream.overdue or stream.grace_deadline is None or stream.grace_deadline >= latest
        for stream in bench.registry.snapshot().in_state(State.STOPPING)
    )


def state_holds(invariant: StateInvariant, bench: Bench) -> bool:
    return invariant.holds(bench.registry.snapshot())


def overlap_is_fenced_off(
    bench: Bench, request: Request, is_logged: Callable[[Request], bool] = lambda other: True
) -> Iterator[str]:
    """S3, for streams that work upstream from their admission until their task is over."""
    for other in bench.of_session(request):
        if other is request or not other.works_upstream:
            continue
        state = bench.state_of(other)
        if state is not State.DETACHED or not is_logged(other):
            yield f"{other.name} is {state} while {request.name} begins"
        bench.world.reached("upstream overlap, fenced off")


def overlap_is_logged(bench: Bench, request: Request) -> Iterator[str]:
    return overlap_is_fenced_off(bench, request, bench.has_logged_timeout_of)


def only_active_emits(bench: Bench, request: Request, content: str) -> Iterator[str]:
    if (state := bench.state_of(request)) is not State.ACTIVE:
        yield f"{request.name} emitted {content!r} in state {state}"


# -- of the end


def closed_in_time(bench: Bench, lasted_s: float) -> Iterator[str]:
    if lasted_s > bench.grace_s + bench.slack_s:
        yield f"close took {lasted_s:.3f} s"


def no_entry_is_left(bench: Bench) -> Iterator[str]:
    tasks = [each.task for each in bench.requests if each.task is not None]
    reached = _reached(bench.registry, tasks)
    if leaked := [each.name for each in bench.requests if id(each.task) in reached]:
        yield f"entries of {', '.join(leaked)}"


def no_stream_is_left(bench: Bench) -> Iterator[str]:
    if left := bench.registry.snapshot().streams:
        yield f"{left}"


def nothing_of_ours_is_left(bench: Bench) -> Iterator[str]:
    if timers := bench.world.timers:
        yield f"timers {timers}"
    if flags := len(bench.stop_signals):
        yield f"{flags} stop signals"


def _reached(registry: object, tasks: Sequence[object]) -> set[int]:
    """The ids of those tasks that are reachable from the registry, as in an entry that it holds."""
    sought = {id(task) for task in tasks}
    seen = {id(registry)}
    todo = [registry]
    while todo:
        for each in gc.get_referents(todo.pop()):
            if id(each) in seen or isinstance(each, _NOT_FOLLOWED):
                continue
            if id(each) in sought:
                # Also one that is recorded, whose class is of what records it.
                seen.add(id(each))
            elif type(each).__module__ not in _RECORDS_TASKS:
                seen.add(id(each))
                todo.append(each)
    return sought & seen


# The world, the loop and what records its tasks know every task; what a registry keeps, it keeps in
# its own objects.
_NOT_FOLLOWED = (
    *(type, ModuleType, FunctionType, MethodType, str, int, float),
    *(asyncio.AbstractEventLoop, World, logging.Logger),
)
# By name: a scenario that is exported carries none of them.
_RECORDS_TASKS = ("sim.kernel.recording", "sim.kernel.task_rows")


# -- which judgements for which registry


def _admission(graces_of: Graces) -> Judgements:
    return (
        Always(
            "L1 admission",
            partial(none_waits_too_long, graces_of),
            partial(who_waits_too_long, graces_of),
        ),
        Always("S8 identity", cancels_have_reasons),
        Judgement("L1 admission", Moment.ANSWERED, partial(answered_in_time, graces_of)),
    )


_OF_NAMES: Judgements = (
    Judgement("L1 admission", Moment.ANSWERED, refused_for_a_reason),
    Judgement(
        "a register whose caller has left does not return", Moment.ANSWERED, left_is_not_admitted
    ),
    Judgement(
        "a newcomer is not refused because the stream before it failed",
        Moment.ANSWERED,
        refused_for_the_others_failure,
    ),
    Judgement(
        "a register raises CancelledError only where it was stopped or its caller left",
        Moment.LEFT,
        raised_as_if_left,
    ),
    Judgement(
        "a register raises CancelledError only where it was stopped or its caller left",
        Moment.REPEATED_LEFT,
        repeated_as_if_left,
    ),
    Judgement("L1 admission", Moment.REPEATED, repeated_in_time),
    Always("a cancel by name stops its stream at once", stops_arrive),
    Judgement(
        "a cancel answers true only where a stream of its name is there",
        Moment.CANCELLED,
        true_of_a_stream,
    ),
    Judgement("a cancel that answers false stops nothing", Moment.CANCELLED, false_stops_nothing),
    Judgement(
        "cancel, pop and close raise nothing, whatever became of the stream",
        Moment.RAISED,
        nothing_is_raised,
    ),
)
"""What else a reader of the note's three methods expects of them, of any registry."""

_ENDS = (
    *_OF_NAMES,
    Judgement("L5 shutdown", Moment.CLOSED, closed_in_time),
    Judgement("L3 no_leak", Moment.QUIET, no_entry_is_left),
)
_OF_STATES = (
    Judgement("S2 only_active_emits", Moment.EMITS, only_active_emits),
    *_ENDS,
    Judgement("L3 no_leak", Moment.QUIET, no_stream_is_left),
)
_OF_OTHERS = (
    *_admission(lambda request: request.rivals),
    Judgement("S6 isolation", Moment.ANSWERED, answered_promptly),
)

WITHOUT_STATES: Judgements = (
    *_OF_OTHERS,
    Judgement("S1 one_active", Moment.ADMITTED, one_active),
    *_ENDS,
)
"""For a registry with only the note's three methods."""

WITH_STATES: Judgements = (
    *_OF_OTHERS,
    *(Always(each.name, partial(state_holds, each)) for each in STATE_INVARIANTS),
    Judgement("S3 no_silent_overlap", Moment.BEGINS, overlap_is_fenced_off),
    *_OF_STATES,
)
"""For one that shows its states."""

OURS: Judgements = (
    *_admission(lambda request: 1),
    Always("L1 admission", no_grace_is_overrun),
    Judgement("S6 isolation", Moment.ANSWERED, answered_at_once),
    Judgement("L3 no_leak", Moment.LEFT, who_left_is_gone),
    Judgement("S3 no_silent_overlap", Moment.BEGINS, overlap_is_logged),
    *_OF_STATES,
    Judgement("L3 no_leak", Moment.QUIET, nothing_of_ours_is_left),
)
"""For the production registry: all that it promises; its protocol is observed as well."""
