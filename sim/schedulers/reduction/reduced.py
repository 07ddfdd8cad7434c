"""One execution per class: dynamic partial-order reduction over chains.

Optimal DPOR: sleep sets and wakeup trees (Abdulla, Aronis, Jonsson, Sagonas, "Source Sets: A
Foundation for Optimal Dynamic Partial Order Reduction", J. ACM 64, 2017), with the chains of
`happens_before.py` in the place of steps. Each execution lets one outside event land, runs
what follows to its end, and then the next; where two chains raced, the search backtracks and lets
them land in the other order. What the actors share is what the program declares, and after each
class one more execution, a random linearisation of it, checks that.

Where chains are too coarse, since a clock, a thread or a chain of several visible steps is
involved, the search says so and begins again with another scheduler, which visits every schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - for the linearisations, by seed

from sim.kernel.environment import Arrival
from sim.kernel.errors import Nondeterminism
from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint, Named
from sim.schedulers.base import Scheduler
from sim.schedulers.reduction.happens_before import Chain, Footprint, History, conflict

OVERLAP_PROBABILITY = 0.3


@dataclass(slots=True)
class _Branch:
    """What is to land, and then the branches of what is to land next: a wakeup tree."""

    event: int
    footprint: Footprint
    then: list[_Branch] = field(default_factory=list)


@dataclass(slots=True)
class _Landing:
    """An outside event with what it used, and which others of its sequence come before it."""

    event: int
    footprint: Footprint
    after: set[int]


@dataclass(slots=True)
class _Node:
    """A choice point of the current execution.

    options: the outside events that could land, or the numbers of the program's options.
    chain: the number of the chain that begins here; 0 for a choice of the program's.
    """

    options: list[int]
    chosen: int
    chain: int
    # What races have shown must be tried here; the chosen one is the first.
    todo: list[_Branch]
    # The sleep set: to let these land here would lead to visited classes.
    sleep: dict[int, Footprint] = field(default_factory=dict)
    done: dict[int, Footprint] = field(default_factory=dict)
    footprint: Footprint = field(default_factory=dict)


@dataclass(slots=True)
class _Linearisation:
    """Another order of the chains of one class, and the outcome of the class."""

    events: list[int]
    names: list[str]
    # Of each chain in this order, the numbers in this order of those that happened before it.
    before: list[set[int]]
    values: dict[tuple[int, int], int]
    overlaps: bool
    outcome: object
    pasts: tuple[int, ...]
    landed: int = 0
    # The first of the chains that are not over.
    first_open: int = 0


class Reduced(Scheduler):
    """Exhaustive over classes; `fallback` takes over where chains are too coarse.

    classes: executions that ran to their end, one per class. cut: those that were pruned since
    they would have reached a visited class. linearised: the further executions.
    """

    def __init__(self, fallback: Scheduler, *, linearises: bool = True, seed: int = 0) -> None:
        self.fallback = fallback
        self.unsupported_reason: str | None = None
        self.classes = 0
        # What executions have used of what the program declares, by name: the proof's assumption.
        self.declared: set[str] = set()
        self.cut = 0
        self.linearised = 0
        self._linearises = linearises
        self._random = Random(seed)
        self._exhausted = False
        self._begun = False
        self._fell_back = False
        self._nodes: list[_Node] = []
        self._history = History()
        self._linearisation: _Linearisation | None = None
        # Of this execution: how many nodes it reached, the sleep set and for how many chains it
        # accounts, what is to land next, the program's choices by chain, whether it was pruned.
        self._met = 0
        self._sleep: dict[int, Footprint] = {}
        self._accounted = 0
        self._guide: list[_Branch] = []
        self._values: dict[tuple[int, int], int] = {}
        self._is_cut = False

    # -- what a scheduler is asked

    @property
    def name(self) -> str:
        if self._fell_back:
            return f"{self.fallback.name} (not reduced: {self.unsupported_reason})"
        return f"reduced: {self.classes} classes, {self.cut} cut short, {self.linearised} again"

    @property
    def is_exhausted(self) -> bool:
        return self.fallback.is_exhausted if self._fell_back else self._exhausted

    @property
    def covers(self) -> str:
        if self._fell_back:
            return self.fallback.covers
        shared = ", ".join(sorted(self.declared)) or "nothing"
        assumed = f"if the actors share {shared} and asyncio's own objects alone"
        return f"every class of schedules ({self.classes}), {assumed}"

    @property
    def complete(self) -> float | None:
        if self._fell_back:
            return self.fallback.complete
        return 1.0 if self._exhausted else None

    def next_execution(self) -> bool:
        if self.unsupported_reason is not None:
            self._fell_back = True
            return self.fallback.next_execution()
        if self._linearisation is None and self._begun and not self._advance():
            self._exhausted = True
            return False
        self._begun = True
        return True

    def observer(self) -> Observer | None:
        """Its history, unless the fallback has taken over."""
        if self._fell_back:
            return self.fallback.observer()
        self._history = History(on_landing=self._lands)
        self._met = 0
        self._sleep = {}
        self._accounted = 0
        self._guide = []
        self._values = {}
        self._is_cut = False
        return self._history

    def choose(self, point: ChoicePoint) -> int:
        if self._fell_back:
            return self.fallback.choose(point)
        if self._is_cut or self._history.unsupported_reason is not None:
            return 0
        if point.kind == "program":
            return self._choose_value(point)
        if point.kind != "landing":
            self._history.unsupported(_WHY.get(point.kind, point.kind))
            return 0
        return self._choose_landing(point)

    # -- choices

    def _choose_landing(self, point: ChoicePoint) -> int:
        arrivals = [each for each in point.options if isinstance(each, Arrival)]
        may_wait = len(arrivals) < len(point.options)
        if any(type(each) not in (Arrival, type(point.options[-1])) for each in point.options):
            self._history.unsupported(_WHY["thread"])
            return 0
        if self._linearisation is not None:
            return self._linearised(self._linearisation, arrivals, may_wait)
        if not self._history.is_quiet:
            return len(arrivals)
        if may_wait:
            self._history.unsupported(_WHY["clock"])
            return 0
        events = [each.event for each in arrivals]
        if self._met == len(self._nodes) and not self._add_node(events):
            return 0
        node = self._nodes[self._met]
        if node.chosen not in events:
            raise Nondeterminism(_differs(point, node))
        self._met += 1
        self._sleep = {**self._sleep_now(), **node.done}
        self._guide = node.todo
        return events.index(node.chosen)

    def _add_node(self, events: list[int]) -> bool:
        """False if all are in the sleep set, and the execution is cut short."""
        asleep = self._sleep_now()
        todo = self._guide or [_Branch(event, {}) for event in events if event not in asleep][:1]
        if not todo:
            self._cut()
            return False
        chain = len(self._history.chains)
        self._nodes.append(_Node(events, todo[0].event, chain, todo, sleep=asleep))
        return True

    def _choose_value(self, point: ChoicePoint) -> int:
        chain = self._history.chains[-1]
        key = chain.event, len([each for each in self._values if each[0] == chain.event])
        if self._linearisation is not None:
            value = self._linearisation.values.get(key, 0)
        else:
            if self._met == len(self._nodes):
                values = list(range(len(point.options)))
                self._nodes.append(_Node(values, 0, 0, [_Branch(each, {}) for each in values]))
            value = self._nodes[self._met].chosen
            self._met += 1
        self._values[key] = value
        return value

    def _lands(self, arrival: Arrival) -> None:
        """Called also where no other event could land."""
        if self._linearisation is not None:
            self._linearisation.landed += 1
            return
        if arrival.event in self._sleep_now():
            self._cut()
        self._guide = next((each.then for each in self._guide if each.event == arrival.event), [])

    def _sleep_now(self) -> dict[int, Footprint]:
        """The sleep set, without the events whose chains conflict with one that has run."""
        for chain in self._history.chains[self._accounted :]:
            self._sleep = {
                event: footprint
                for event, footprint in self._sleep.items()
                if not conflict(footprint, chain.footprint)
            }
        self._accounted = len(self._history.chains)
        return self._sleep

    def _cut(self) -> None:
        self._is_cut = True
        self._history.stop()

    # -- after an execution

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        """Takes the outcome of the execution; returns what is wrong with the declaration, or None.

        The end, violation and labels, is compared with that of the class's other execution.
        """
        if self._fell_back:
            return self.fallback.learn(violated, labels)
        if violated is not None:
            return None
        outcome = violated, tuple(sorted(labels))
        if self._linearisation is not None:
            return self._compare(self._linearisation, outcome)
        self.unsupported_reason = self._history.unsupported_reason or self._history.two_steps()
        if self.unsupported_reason is not None:
            return None
        self._note_footprints()
        self._add_reversed_races()
        if self._is_cut:
            self.cut += 1
            return None
        self.classes += 1
        if self._linearises and len(self._history.chains) > 2:
            self._linearisation = self._another_order(outcome)
        return None

    def _note_footprints(self) -> None:
        """What the chains have used, and which of it was declared."""
        chains = self._history.chains
        for chain in chains:
            self.declared |= {str(what[1]) for what in chain.footprint if what[0] == "shared"}
        for node in self._nodes[: self._met]:
            if node.chain:
                for chain in self._block(node.chain):
                    for what, is_write in chain.footprint.items():
                        node.footprint[what] = is_write or node.footprint.get(what, False)
                node.todo[0].footprint = node.footprint

    def _block(self, number: int) -> list[Chain]:
        """A chain, and the joint chains that follow it directly."""
        chains = self._history.chains
        until = number + 1
        while until < len(chains) and chains[until].is_joint:
            until += 1
        return chains[number:until]

    def _add_reversed_races(self) -> None:
        history = self._history
        nodes = {node.chain: node for node in self._nodes[: self._met] if node.chain}
        for earlier, later in history.races():
            node = nodes.get(earlier)
            sequence = self._sequence(earlier, later)
            first = [each.event for each in sequence if not each.after]
            if node is None or not any(event in node.options for event in first):
                name = history.chains[later].name
                self.unsupported_reason = f"«{name}» cannot come first, and not for what it shares"
                return
            asleep = {**node.sleep, **node.done}
            if not any(_may_be_first(*each, sequence) for each in asleep.items()):
                _insert(sequence, node.todo)

    def _sequence(self, earlier: int, later: int) -> list[_Landing]:
        """What is to land where `later` is to come before `earlier`."""
        chains = self._history.chains
        numbers = [k for k in self._history.without(earlier, later) if not chains[k].is_joint]
        return [
            _Landing(
                chains[k].event,
                {what: w for each in self._block(k) for what, w in each.footprint.items()},
                {chains[other].event for other in numbers if chains[k].before >> other & 1},
            )
            for k in numbers
        ]

    def _advance(self) -> bool:
        """To the next execution: it branches at the last node that has something to try."""
        while self._nodes:
            node = self._nodes[-1]
            node.done[node.chosen] = node.footprint
            gone = node.done.keys() | node.sleep.keys()
            node.todo = [branch for branch in node.todo if branch.event not in gone]
            if node.todo:
                node.chosen = node.todo[0].event
                node.footprint = {}
                return True
            self._nodes.pop()
        return False

    # -- linearisations

    def _another_order(self, outcome: object) -> _Linearisation:
        chains = self._history.chains
        left = [k for k in range(1, len(chains)) if not chains[k].is_joint]
        order: list[int] = []
        while left:
            first = [k for k in left if not any(chains[k].before >> other & 1 for other in left)]
            order.append(self._random.choice(first))
            left.remove(order[-1])
        return _Linearisation(
            [chains[k].event for k in order],
            [chains[k].name for k in order],
            [{order.index(j) for j in order if chains[k].before >> j & 1} for k in order],
            self._values,
            overlaps=self._random.random() < 0.5,
            outcome=outcome,
            pasts=self._history.class_of(),
        )

    def _linearised(self, one: _Linearisation, arrivals: list[Arrival], may_wait: bool) -> int:
        waits = len(arrivals)
        if self._history.is_quiet:
            one.first_open = one.landed
        elif not (one.overlaps and self._may_overlap(one)):
            return waits
        if one.landed < len(one.events):
            for option, arrival in enumerate(arrivals):
                is_next = arrival.event == one.events[one.landed]
                if is_next or (one.overlaps and arrival.name == one.names[one.landed]):
                    return option
        return waits if may_wait else 0

    def _may_overlap(self, one: _Linearisation) -> bool:
        """Only chains without an order among them: others could lead to another class."""
        if one.landed == len(one.events):
            return False
        is_apart = all(each < one.first_open for each in one.before[one.landed])
        return is_apart and self._random.random() < OVERLAP_PROBABILITY

    def _compare(self, one: _Linearisation, outcome: object) -> str | None:
        self._linearisation = None
        self.linearised += 1
        if outcome != one.outcome:
            return (
                f"two executions of one class came to different ends, so the program's actors "
                f"share more than it declares: {one.outcome} in one order, {outcome} in the order "
                f"{', '.join(one.names)}. Declare what they share with world.shared(…)"
            )
        if one.overlaps or self._history.class_of() == one.pasts:
            return None
        other = next(each for each in self._history.chains if each.past not in one.pasts)
        return (
            f"«{other.name}» used other things when independent steps were ordered otherwise "
            f"({', '.join(one.names)}), so the program's actors share more than it declares. "
            f"Declare it with world.shared(…)"
        )


def _may_be_first(event: int, footprint: Footprint, sequence: list[_Landing]) -> bool:
    """Whether it is a weak initial: in the sequence with nothing before it, or apart from it."""
    for each in sequence:
        if each.event == event:
            return not each.after
    return not any(conflict(footprint, each.footprint) for each in sequence)


def _insert(sequence: list[_Landing], tree: list[_Branch]) -> None:
    """Adds the sequence to a wakeup tree that does not lead to its class yet."""
    for branch in tree:
        if _may_be_first(branch.event, branch.footprint, sequence):
            left = [
                _Landing(each.event, each.footprint, each.after - {branch.event})
                for each in sequence
                if each.event != branch.event
            ]
            # A leaf stands for all that follows, so it covers the rest of the sequence.
            if left and branch.then:
                _insert(left, branch.then)
            return
    for landing in sequence:
        tree.append(_Branch(landing.event, landing.footprint))
        tree = tree[-1].then


_WHY = {
    "clock": "outside events and the clock decide together",
    "thread": "worker threads go on by themselves",
    "cancel": "any task may be cancelled",
}


def _differs(point: ChoicePoint, node: _Node) -> str:
    return (
        f"choice point {point.index} (at {point.at:.6f} s) offers {_names(point.options)}; under "
        f"the same choices it had offered an event that is not among these: something that no "
        f"schedule decides differs between two executions"
    )


def _names(options: Sequence[Named]) -> str:
    return ", ".join(option.name for option in options)
