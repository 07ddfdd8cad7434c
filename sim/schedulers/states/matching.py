"""Every schedule, but each state only once: what follows a visited state is not explored again.

Explicit-state search as in SPIN, Java PathFinder and CMC: the search stores a digest of the state
at each poll (`state_reader.py`), and prunes an execution that reaches a visited state. All that
could follow is, or will be, explored from the first visit. Partial-order reduction (`reduced`)
finds nothing to reduce where all steps of a session use one object; but the states after them are
mostly the same in every order.

Whether two states match rests on what `state_reader.py` can read. So a sample of the matches is
audited: after either path to the state the same random choices are made, and have to lead through
the same states to the same end. If not, the verdict is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - for the audits, by seed

from sim.kernel.errors import Opaque
from sim.kernel.schedule import FAULT, ChoicePoint
from sim.schedulers.base import PROVE_LESS, Scheduler
from sim.schedulers.states.object_readers import Constants
from sim.schedulers.states.set_layout import GAPS
from sim.schedulers.states.state_reader import StateReader
from sim.schedulers.tree_search import DepartureBounded, DepthFirst, TreeSearch

AUDITED_AT_FIRST = 8
AUDIT_PROBABILITY = 0.02
UNREAD_MAX = 200
"""The most states that are tried where none could be read: each costs its reading."""

# How many types are named because of which states were not compared.
NAMED_MAX = 3

_READ = ("landing", "clock", "turn", FAULT, "thread")
"""The kinds of choice points at which the state can be read.

At these no callback runs; but for the last, at which the loop's thread asks who goes on before it.
"""


@dataclass(slots=True)
class _Audit:
    """Two paths to one state, and what the same random choices lead to after each of them."""

    state: bytes
    paths: tuple[tuple[int, ...], tuple[int, ...]]
    choices: list[int] = field(default_factory=list)
    # Options and state at each choice point after a path, and the end; a list for each path.
    led_to: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    # The labels that were reached on either path to the state, and after it.
    labels_before: set[str] = field(default_factory=set)
    labels: list[set[str]] = field(default_factory=list)
    # Which path is being run, and which have led to the state.
    path: int = 0
    met: set[int] = field(default_factory=set)
    # Whether it was not compared after one of them, for a set that addresses decide about.
    is_refused: bool = False

    @property
    def was_met_again(self) -> bool:
        """After either path, as far as it could be read, once both were run."""
        return self.is_refused or len(self.met) == len(self.paths)

    def verdict(self) -> str | None:
        """Where the two differ."""
        if not self.was_met_again:
            return (
                "a state was not met again under the choices that had led to it: something in it "
                "is another in each execution, as an address is. Use the strategy depth-first"
            )
        for led_to, labels in zip(self.led_to, self.labels, strict=True):
            led_to[-1] += f", {sorted(labels | self.labels_before)}"
        for index, (one, other) in enumerate(zip(*self.led_to, strict=False)):
            if one != other:
                paths = " and ".join("+".join(map(str, path)) or "natural" for path in self.paths)
                return (
                    f"two states were taken for one: after the choices {paths} the same {index} "
                    f"choices lead to {one}, and to {other}. Something that decides about the "
                    f"future lies where states are not read: in a global of a module, say, in an "
                    f"object written in C, or in times that less than a microsecond lies between. "
                    f"Use the strategy depth-first"
                )
        return None


class StateMatching(Scheduler):
    """Depth-first search that continues from each state only once.

    met_again: how many executions were pruned at a visited state. opaque: the types because of
    which some states were not compared, which costs executions, and never the proof.
    with_labels: states after different labels differ, so that every end (violation and labels) is
    reached that plain search reaches.
    departures_max: it visits every schedule without a departure, then with up to one, and so on,
    and is exhausted after this bound; a state then counts as visited if it was reached with as many
    departures, or fewer. None: it visits every schedule at once.
    """

    def __init__(
        self, *, seed: int = 0, with_labels: bool = False, departures_max: int | None = None
    ) -> None:
        self._seed = seed
        self._with_labels = with_labels
        self._departures_max = departures_max
        self._constants = Constants()
        # How long ago the ready queue was last empty matters only to the bound `spin_max`. As long
        # as no execution reaches half of it, no pruned one would have reached all of it.
        self._with_spins = False
        self._executions = self._unread = 0
        self._states: StateReader
        # Sets from which members were discarded, see `_Gaps`: their states are taken as they are,
        # until one is not met again; from then on they are not compared.
        self._with_gaps = True
        GAPS.were_met = False
        self._begin()

    def _begin(self) -> None:
        self._search: TreeSearch = DepthFirst()
        if self._departures_max is not None:
            self._search = DepartureBounded(self._departures_max)
        self._random = Random(f"audits {self._seed}")
        # For each state the fewest departures that have led to it, and the choices that did.
        self._visited: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        self._bound = self._search.bound
        self._choices: list[int] = []
        self.is_cut = False
        self._spins_matter = self._gaps_differ = False
        # The current audit, and those to come.
        self._audit: _Audit | None = None
        self._audits: list[_Audit] = []
        self.met_again = 0
        self._instead: dict[str, str] = {}

    @property
    def opaque(self) -> set[str]:
        return set(self._instead)

    @property
    def name(self) -> str:
        return "states" if self._departures_max is None else f"states {self._search.name}"

    @property
    def covers(self) -> str:
        return f"{self._search.covers}, states matched"

    @property
    def matches_states(self) -> bool:
        return self.met_again > 0

    @property
    def states(self) -> int:
        """How many states were visited."""
        return len(self._visited)

    @property
    def is_exhausted(self) -> bool:
        return self._search.is_exhausted

    @property
    def next_to_try(self) -> str:
        if self._instead and not self.met_again:
            advice = [f"because of {what}: {do}" for what, do in sorted(self._instead.items())]
            more = "; …" if len(advice) > NAMED_MAX else ""
            return f"no state was read, {'; '.join(advice[:NAMED_MAX])}{more}; or {PROVE_LESS}"
        return f"give it more, let the program do less, or {PROVE_LESS}"

    @property
    def complete(self) -> float | None:
        return self._search.complete

    def next_execution(self) -> bool:
        if self._spins_matter and not self._with_spins:
            self._with_spins = True
            self._begin()
        if self._gaps_differ:
            self._with_gaps = False
            self._begin()
        if self._executions == 1:
            self._constants.admit_descriptions()
        self._executions += 1
        self._choices = []
        self.is_cut = False
        return self._next_audit() or self._next_of_search()

    def _next_of_search(self) -> bool:
        is_there = self._search.next_execution()
        if self._bound != self._search.bound:
            # With a larger bound more may follow every state.
            self._bound = self._search.bound
            self._visited.clear()
        return is_there

    def observer(self) -> StateReader:
        self._states = StateReader()
        return self._states

    def choose(self, point: ChoicePoint) -> int:
        if self._audit is not None:
            option = self._audited_choice(self._audit, point)
        else:
            if self._search.is_at_new_point:
                self._prune_if_visited(point)
            if self.is_cut:
                return 0
            option = self._search.choose(point)
        self._choices.append(option)
        return option

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        self._spins_matter = self._spins_matter or self._states.spins_are_many
        audit = self._audit
        if audit is None:
            return None
        audit.led_to[audit.path].append(f"the end: {violated}")
        audit.labels.append(labels)
        if not audit.path:
            return None
        self._gaps_differ = self._with_gaps and GAPS.were_met and not audit.was_met_again
        return None if self._gaps_differ else audit.verdict()

    def _prune_if_visited(self, point: ChoicePoint) -> None:
        if self.is_cut or (digest := self._digest(point)) is None:
            return
        path, spent = tuple(self._choices), self._search.spent
        spent_before, before = self._visited.get(digest, (spent + 1, path))
        if spent < spent_before:
            self._visited[digest] = spent, path
            return
        if self.met_again < AUDITED_AT_FIRST or self._random.random() < AUDIT_PROBABILITY:
            self._audits.append(_Audit(digest, (before, path)))
        self.met_again += 1
        self.is_cut = True
        self._states.stop()

    def _digest(self, point: ChoicePoint) -> bytes | None:
        if point.kind not in _READ or (self._unread >= UNREAD_MAX and not self._visited):
            return None
        GAPS.are_refused = not self._with_gaps
        try:
            return self._states.digest(
                point,
                self._constants,
                with_labels=self._with_labels,
                with_spins=self._with_spins,
                with_kept=self._departures_max is not None,
            )
        except Opaque as exc:
            self._instead[exc.what] = exc.instead
            self._unread += 1
            return None

    # -- audits

    def _next_audit(self) -> bool:
        """Whether this execution belongs to an audit."""
        if self._audit is not None and self._audit.path == 0:
            self._audit.path = 1
            return True
        self._audit = self._audits.pop() if self._audits else None
        return self._audit is not None

    def _note_if_met(self, audit: _Audit, point: ChoicePoint) -> None:
        if not self._with_gaps:
            GAPS.were_met = False
        if self._digest(point) == audit.state:
            audit.met.add(audit.path)
            audit.labels_before |= self._states.labels
        elif not self._with_gaps and GAPS.were_met:
            audit.is_refused = True

    def _shown(self, point: ChoicePoint) -> str | None:
        """None also where addresses may decide whether the state can be read."""
        state = self._digest(point) if self._with_gaps else None
        return None if state is None else state.hex()[:8]

    def _audited_choice(self, audit: _Audit, point: ChoicePoint) -> int:
        path = audit.paths[audit.path]
        after = len(self._choices) - len(path)
        if after < 0:
            return path[after]
        if after == 0:
            self._note_if_met(audit, point)
        names = " | ".join(option.name for option in point.options)
        audit.led_to[audit.path].append(f"{point.kind}: {names}, state {self._shown(point)}")
        if after == len(audit.choices):
            audit.choices.append(self._random.randrange(len(point.options)))
        return min(audit.choices[after], len(point.options) - 1)
