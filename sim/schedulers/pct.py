"""PCT: random priorities, and a few points at which the highest becomes the lowest.

Burckhardt, Kothari, Musuvathi, Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees
of Finding Bugs", ASPLOS 2010.
"""

from __future__ import annotations

from random import Random  # noqa: TID251 - seeded for each execution

from sim.kernel.schedule import LOOP_OPTIONS, ChoicePoint, Named
from sim.schedulers.base import NEVER_PROVES, Scheduler

DEPTH = 3


class PCT(Scheduler):
    """Each actor has a priority, drawn at random; at each choice point the highest goes first.

    depth: how many orderings a failure needs (the paper's d): at depth - 1 choice points, drawn
    uniformly, the actor with the highest priority gets the lowest. choice_points: how many an
    execution has (the paper's k); None to count them in a first execution, in natural order.

    How the paper's threads and steps map to an event loop: an *actor* is an outside event (a
    thread of one step), a worker thread, or the loop itself, which goes on by "no more", "the
    loop goes on" and "on time". The options of a choice of the program's, of a cancel, and of how
    late the loop is have a priority of their own, by their words. A *step* is a choice point, not
    an instruction. Each priority is drawn from 0..1 when its actor first appears, which is a random
    permutation of any number of actors, so that n need not be known.

    What does not carry over is the bound of 1/(n·kᵈ⁻¹): k differs from execution to execution, and
    actors are announced by what others do. And where the loop has the highest priority, each event
    waits until a bound of the arrival model lands it, so that the bounds are tried often, and what
    lies between them rarely.
    """

    next_to_try = NEVER_PROVES

    def __init__(
        self, seed: int = 0, *, depth: int = DEPTH, choice_points: int | None = None
    ) -> None:
        self._seed = seed
        self._depth = depth
        self._choice_points = choice_points
        # The number of executions begun, without the one that counts the choice points.
        self._executions = 0
        self._is_counting = False
        self._counted = 0
        self._random = Random()
        self._priorities: dict[Named, float] = {}
        self._changes: set[int] = set()

    @property
    def name(self) -> str:
        return f"pct of depth {self._depth}"

    def next_execution(self) -> bool:
        if self._is_counting:
            self._choice_points = self._counted
        self._is_counting = self._choice_points is None
        self._priorities.clear()
        if self._choice_points is not None:
            self._random.seed(f"pct:{self._depth}:{self._seed}:{self._executions}")
            self._executions += 1
            points = range(self._choice_points)
            self._changes = set(
                self._random.sample(points, min(self._depth - 1, self._choice_points))
            )
        return True

    def choose(self, point: ChoicePoint) -> int:
        if self._is_counting:
            self._counted = point.index + 1
            return 0
        priorities = [self._priority(option) for option in point.options]
        foremost = priorities.index(max(priorities))
        if point.index in self._changes:
            # Below all priorities, which are 0..1, and below those lowered before.
            priorities[foremost] = -1.0 - point.index
            self._priorities[_actor(point.options[foremost])] = priorities[foremost]
            foremost = priorities.index(max(priorities))
        return foremost

    def _priority(self, option: Named) -> float:
        actor = _actor(option)
        priority = self._priorities.get(actor)
        if priority is None:
            priority = self._priorities[actor] = self._random.random()
        return priority


def _actor(option: Named) -> Named:
    return LOOP_OPTIONS[0] if option in LOOP_OPTIONS else option
