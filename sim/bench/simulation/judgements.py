"""The judgements of a simulated server, besides those of its bench in every scenario.

A scenario knows how its few prompts should end; here that has to follow from the plan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations

from registry.protocol import State, Strategy
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment, sentence
from sim.bench.harness.registry_bench import QUEUE_S, Bench, Request
from sim.bench.harness.server_bench import ServerBench
from sim.bench.simulation.profiles import LOOKUP_MAX_S
from sim.fake_ollama import Profile
from sim.fake_ollama.answers import content_pieces
from sim.fake_ollama.modes import MODES

# The longest that a request may take after the last fault. Of a server: its body, the wait for its
# session, the stream, a write that is not read; the look-up that was stuck last; and a place in
# the queue.
SERVER_OVER_S = 3.0 + 2.0 + 20.0 + 3.0 + LOOKUP_MAX_S + 1.0 + QUEUE_S
REGISTRY_OVER_S = 30.0 + QUEUE_S

OVER = "L4 no_deadlock: {:g} s after the last fault every request is over"
OWN_ANSWER = "an answer that ends without an error is the whole answer to its own prompt"
LEAVING = "L2 prompt_stop: a client that leaves stops its stream"
STRANGER = "S6 isolation: no API key reaches another key's streams"
ANSWERED = "liveness: once the faults are over, the next prompt of each session is answered whole"
ADMITTED = "liveness: once the faults are over, the next prompt of each session is admitted"
THREADS = f"{sentence('S7 bounded')}: each belongs to a stream that is counted"
TURNS = f"{sentence('S4 oldest_next')}: who is enqueued later is admitted later"
OVERTAKEN = f"{sentence('S8 identity')}: only one that interrupts supersedes"
ENDED = f"{sentence('L5 shutdown')}: then no request is open"


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of a prompt. Times are virtual seconds; admitted_at: infinite if it was not."""

    name: str
    session: str
    strategy: Strategy
    came_at: float
    admitted_at: float
    was_superseded: bool


def sessions_of(turns: Iterable[Turn]) -> Iterable[list[Turn]]:
    """The turns of each session."""
    sessions: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        sessions[turn.session].append(turn)
    return sessions.values()


class Watch:
    """A server's bench, and what its judges have to remember between two polls."""

    def __init__(self, bench: ServerBench) -> None:
        self.bench = bench
        self.left: list[tuple[Exchange, float]] = []
        self.uncounted_since: float | None = None

    def leaves(self, prompt: Exchange) -> None:
        self.left.append((prompt, self.bench.world.now))
        prompt.leave()


# -- at every poll; a state may last for the slack of the bench


def who_left_is_stopped(watch: Watch) -> bool:
    if not watch.left:
        return True
    now = watch.bench.world.now
    states = [(since, watch.bench.state_of(prompt)) for prompt, since in watch.left]
    at_work = (State.ACTIVE, State.WAITING)
    watch.left = [
        left for left, (_, state) in zip(watch.left, states, strict=True) if state in at_work
    ]
    return all(now - since <= watch.bench.slack_s for since, state in states if state in at_work)


def threads_are_counted(watch: Watch) -> bool:
    """The end of a thread is reported some steps before it is gone."""
    world = watch.bench.world
    workers = len(world.loop.threads.workers)
    counted = 0
    if workers:
        streams = watch.bench.registry.snapshot().streams
        counted = sum(stream.state is not State.WAITING for stream in streams)
    if workers <= counted:
        watch.uncounted_since = None
        return True
    if watch.uncounted_since is None:
        watch.uncounted_since = world.now
    return world.now - watch.uncounted_since <= watch.bench.slack_s


# -- of requests


def none_is_open(watched: object, names: list[str]) -> Iterator[str]:
    if names:
        yield ", ".join(names)


def is_hidden(watch: Watch, answer: Exchange) -> Iterator[str]:
    # 503: the server is shutting down.
    if answer.status not in (404, 503):
        yield f"{answer.status} {answer.body!r}"


def is_answered(prompt: Exchange) -> bool:
    """Whether its client has a whole answer, and no error."""
    return prompt.is_told_the_end and not prompt.has_left and prompt.error_code is None


def healed(watch: Watch, prompt: Exchange) -> Iterator[str]:
    if not is_answered(prompt):
        yield f"{prompt.name}: {prompt.body!r}"


def healed_alone(bench: Bench, request: Request) -> Iterator[str]:
    if request.answer != "admitted":
        yield f"{request.name}: {request.answer}"


def answer_is_its_own(
    watch: Watch, prompt: Exchange, mode_name: str, profile: Profile
) -> Iterator[str]:
    """An answer without an error is all that Ollama says to that prompt."""
    expected = _expected(mode_name, prompt.name, profile)
    if is_answered(prompt) and prompt.text != expected:
        yield f"{prompt.name}: {prompt.text!r}, not {expected!r}"


def _expected(mode_name: str, prompt: str, profile: Profile) -> str | None:
    """What Ollama says in this mode; None if it never ends by itself."""
    mode = MODES[mode_name]
    ends_badly = mode.fault not in (None, "pause") or mode.hangs_before_headers
    if mode.refusal or mode.error or not mode.installed or ends_badly:
        return None
    length = profile.slow_chunks if mode.slow else profile.chunks
    return "".join(content_pieces(mode, prompt, length))


def silence_is_ended(
    watch: Watch, prompt: Exchange, mode_name: str, lasted_s: float
) -> Iterator[str]:
    """L6: a stream whose Ollama hangs ends by the limit of its silence, not by that of its whole.

    lasted_s: from its admission to the end of its answer.
    """
    mode, settings = MODES[mode_name], watch.bench.settings
    limit_s = math.inf
    if mode.fault == "hang":
        limit_s = settings.first_chunk_seconds + settings.stream_inactivity_seconds + 1.0
    elif mode.hangs_before_headers:
        limit_s = settings.first_chunk_seconds + 1.0
    if lasted_s > limit_s:
        yield f"{prompt.name} ({mode_name}) took {lasted_s:.3f} s"


# -- of what a session's prompts did to one another, by their strategies; which of two is older
# is unknown if they came within slack_s


def oldest_is_next(watched: object, together: list[Turn], slack_s: float) -> Iterator[str]:
    queue = [each for each in together if each.strategy is Strategy.ENQUEUE]
    for earlier, later in permutations(queue, 2):
        is_older = earlier.came_at + slack_s < later.came_at
        if is_older and later.admitted_at <= earlier.admitted_at < math.inf:
            yield f"{later.name} before {earlier.name}"


def only_who_interrupts_supersedes(
    watched: object, together: list[Turn], slack_s: float
) -> Iterator[str]:
    interrupted_at = [t.came_at for t in together if t.strategy is Strategy.INTERRUPT]
    latest = max(interrupted_at, default=-math.inf) + slack_s
    for turn in together:
        if turn.was_superseded and turn.came_at > latest:
            yield f"{turn.name} was superseded, and none interrupted it"


# -- which judgements for which registry

_TURNS: Judgements = (
    Judgement(TURNS, Moment.TURNS, oldest_is_next),
    Judgement(OVERTAKEN, Moment.TURNS, only_who_interrupts_supersedes),
)

REGISTRY: Judgements = (
    Judgement(OVER.format(REGISTRY_OVER_S), Moment.LATE, none_is_open),
    Judgement(ADMITTED, Moment.HEALED, healed_alone),
    *_TURNS,
)

SERVER: Judgements = (
    Always(LEAVING, who_left_is_stopped),
    Always(THREADS, threads_are_counted),
    Judgement(ENDED, Moment.SHUT, none_is_open),
    Judgement(OVER.format(SERVER_OVER_S), Moment.LATE, none_is_open),
    Judgement(STRANGER, Moment.PRIED, is_hidden),
    Judgement(ANSWERED, Moment.HEALED, healed),
    Judgement(OWN_ANSWER, Moment.COMPLETED, answer_is_its_own),
    Judgement("L6 silence", Moment.LASTED, silence_is_ended),
    *_TURNS,
)
"""For the production registry; a published one never promised more than its bench judges."""
