"""What is judged of a simulated server beside what its bench judges in every scenario.

A scenario knows what its few prompts should come to; here it has to follow from the plan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations

from registry.protocol import State, Strategy
from sim.asgi import Exchange
from sim.fake_ollama import Profile
from sim.fake_ollama.answers import content_pieces
from sim.fake_ollama.modes import MODES
from sim.judgement import sentence
from sim.server_bench import ServerBench
from sim.world import World

OWN_ANSWER = "an answer that ends without an error is the whole answer to its own prompt"
LEAVING = "L2 prompt_stop: a client that leaves stops its stream"
STRANGER = "S6 isolation: no API key reaches another key's streams"
HEALED = "liveness: once the faults are over, the next prompt of each session is answered whole"
THREADS = f"{sentence('S7 bounded')}: each belongs to a stream that is counted"
TURNS = f"{sentence('S4 oldest_next')}: who is enqueued later is admitted later"
OVERTAKEN = f"{sentence('S8 identity')}: only one that interrupts supersedes"
ENDED = f"{sentence('L5 shutdown')}: then no request is open"


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of a prompt. Times are virtual seconds; admitted_at: None if it was not."""

    name: str
    session: str
    strategy: Strategy
    came_at: float
    admitted_at: float | None
    was_superseded: bool


def judge_turns(world: World, turns: Iterable[Turn], *, slack_s: float) -> None:
    """What a session's prompts may do to one another, by their strategies.

    slack_s: which of two is older cannot be told if they came that close to one another.
    """
    sessions: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        sessions[turn.session].append(turn)
    for together in sessions.values():
        queue = [each for each in together if each.strategy is Strategy.ENQUEUE]
        for earlier, later in permutations(queue, 2):
            if earlier.came_at + slack_s < later.came_at and earlier.admitted_at is not None:
                first = later.admitted_at is None or earlier.admitted_at < later.admitted_at
                world.check(first, TURNS, f"{later.name} before {earlier.name}")
        interrupted_at = [t.came_at for t in together if t.strategy is Strategy.INTERRUPT]
        latest = max(interrupted_at, default=-math.inf) + slack_s
        for turn in together:
            stays = not turn.was_superseded or turn.came_at <= latest
            world.check(stays, OVERTAKEN, f"{turn.name} was superseded, and none interrupted it")


class Watch:
    """What is asked at every poll; a state may last for the slack of the bench."""

    def __init__(self, bench: ServerBench) -> None:
        self._bench = bench
        self._slack_s = 10 * bench.world.loop.bounds.lateness_s
        self._left: list[tuple[Exchange, float]] = []
        self._uncounted_since: float | None = None
        bench.world.always(LEAVING, self._who_left_is_stopped)
        bench.world.always(THREADS, self._threads_are_counted)

    def leaves(self, prompt: Exchange) -> None:
        self._left.append((prompt, self._bench.world.now))
        prompt.leave()

    def _who_left_is_stopped(self) -> bool:
        if not self._left:
            return True
        now = self._bench.world.now
        states = [(since, self._bench.state_of(prompt)) for prompt, since in self._left]
        at_work = (State.ACTIVE, State.WAITING)
        self._left = [
            left for left, (_, state) in zip(self._left, states, strict=True) if state in at_work
        ]
        return all(now - since <= self._slack_s for since, state in states if state in at_work)

    def _threads_are_counted(self) -> bool:
        """A thread is some steps behind the word that it is over."""
        world = self._bench.world
        workers = len(world.loop.threads.workers)
        counted = 0
        if workers:
            streams = self._bench.registry.snapshot().streams
            counted = sum(stream.state is not State.WAITING for stream in streams)
        if workers <= counted:
            self._uncounted_since = None
            return True
        if self._uncounted_since is None:
            self._uncounted_since = world.now
        return world.now - self._uncounted_since <= self._slack_s


def judge_answers(
    bench: ServerBench, prompts: Iterable[Exchange], modes: Mapping[str, str], profile: Profile
) -> None:
    """Every answer that ended well is what Ollama says to that prompt, from first to last."""
    for prompt in prompts:
        if not is_answered(prompt):
            continue
        expected = _expected(modes.get(prompt.name, "normal"), prompt.name, profile)
        whole = prompt.text == expected
        bench.world.check(whole, OWN_ANSWER, f"{prompt.name}: {prompt.text!r}, not {expected!r}")


def _expected(mode_name: str, prompt: str, profile: Profile) -> str | None:
    """What Ollama says in this mode; None if it never comes to an end of its own."""
    mode = MODES[mode_name]
    ends_badly = mode.fault not in (None, "pause") or mode.hangs_before_headers
    if mode.refusal or mode.error or not mode.installed or ends_badly:
        return None
    length = profile.slow_chunks if mode.slow else profile.chunks
    return "".join(content_pieces(mode, prompt, length))


def is_answered(prompt: Exchange) -> bool:
    """Whether its client has the whole of an answer, and was told of no error."""
    if not prompt.is_whole or prompt.has_left or prompt.error_code is not None:
        return False
    return not prompt.is_streamed or prompt.messages[-1:] == ["[DONE]"]


def judge_silence(bench: ServerBench, prompt: Exchange, mode_name: str, lasted_s: float) -> None:
    """L6: a stream whose Ollama hangs ends by the limit of its silence, not by that of its whole.

    lasted_s: from its admission to the end of its answer.
    """
    mode, settings = MODES[mode_name], bench.settings
    if not mode.hangs_before_headers and mode.fault != "hang":
        return
    limit_s = settings.first_chunk_seconds + 1.0
    if mode.fault == "hang":
        limit_s += settings.stream_inactivity_seconds
    seen = f"{prompt.name} ({mode_name}) took {lasted_s:.3f} s"
    bench.world.check(lasted_s <= limit_s, sentence("L6 silence"), seen)
