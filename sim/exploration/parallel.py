"""One search by several workers: its tree of schedules, divided.

The tree is cut into parts, stretches of it in the order in which one process would visit it. A
worker searches a part for a slice of time and returns its findings and the rest of the part, which
is divided further where processes would be idle. The findings are put together in the tree's order,
and those after the first failure are dropped: so verdict, counterexample and counts are those of
one process, whenever the search ends before its budget does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

from sim.executors.base import Executor, IsStopped
from sim.executors.batches import Batches
from sim.exploration.beside import Beside, Found, looked_beside, natural_traced
from sim.exploration.executing import Watch, search
from sim.exploration.judgement import Conclusion, conclude, make_report
from sim.exploration.report import Findings, Report
from sim.exploration.subject import Problem
from sim.exploration.verdict import Stop
from sim.kernel.guards import guarded, look_ahead
from sim.kernel.watchdog import limited
from sim.schedulers import Divisible, Part, Scheduler

Key = tuple[Any, ...]
ProblemOf = Callable[[Key], Problem]
Within = Callable[[], AbstractContextManager[None]]
PlayWhole = Callable[[Key, float, Watch], Report]
Show = Callable[[Key, float, Findings, Scheduler], bool]
"""Shows the progress of a search, as `Progress.show`; True interrupts all."""

# How long a worker searches before it returns the rest: short at first, since nothing can be
# divided before that; later long enough for the exchange not to count.
SLICE_MIN_S = 0.02
SLICE_MAX_S = 0.5
# Towards the end of a round, so that none is idle for long while the others have a slice left.
SLICE_LAST_S = 0.1
# How many parts wait for each worker: what is running cannot be divided, and some are small.
PARTS_AHEAD = 2

BESIDE_PART = 0.25
"""How much of what a search has left goes to executions beside it: others have the rest."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every task is given: functions of modules, by which a worker does it.

    seed: of random executions beside a search. thread_lines: whether some overtake threads between
    lines. always_looks: also where the search has not ended.
    """

    problem_of: ProblemOf
    play_whole: PlayWhole
    within: Within = nullcontext
    seed: int = 0
    thread_lines: bool = True
    always_looks: bool = False


@dataclass(frozen=True, slots=True)
class PartDone:
    """A process's answer: its findings in a slice of time, and the rest of its part."""

    part: Scheduler
    findings: Findings
    seconds: float


# -- in a worker


def _search_part(
    work: Work, key: Key, part: Scheduler, slice_s: float, left_s: float, is_stopped: IsStopped
) -> PartDone:
    """left_s: when an execution that goes on is ended."""
    begun = perf_counter()
    until = begun + left_s
    # Modules that are imported here hold what they hold in any process: no stand-ins.
    problem = work.problem_of(key)
    with guarded(), limited(until), work.within():
        # What comes before it may take longer than a slice: so in the first task of a process.
        slice_until = min(perf_counter() + slice_s, until)
        findings = search(problem, part, slice_until, None, lambda *_: is_stopped())
    return PartDone(part, findings, perf_counter() - begun)


def _conclude(
    work: Work,
    key: Key,
    findings: Findings,
    left_s: float,
    is_exhausted: bool,
    is_whole: bool,
    is_stopped: IsStopped,
) -> Found:
    """Of all findings; where they found nothing, after a look beside the search."""
    until = perf_counter() + left_s
    problem = work.problem_of(key)
    with guarded(), limited(until), work.within():
        concluded = conclude(problem, findings, until, is_stopped, is_exhausted=is_exhausted)
        found = findings, concluded
        if problem.subject.makes_its_state:
            return found
        looks = work.thread_lines and (is_exhausted or work.always_looks)
        until = perf_counter() + BESIDE_PART * left_s
        beside = Beside(until, work.seed, lambda *_: is_stopped(), is_whole, looks)
        natural = natural_traced(problem) if is_exhausted else None
        return looked_beside(problem, found, natural, beside, is_exhausted=is_exhausted)


def _whole(work: Work, key: Key, budget_s: float, is_stopped: IsStopped) -> Report:
    return work.play_whole(key, budget_s, lambda *_: is_stopped())


# -- in the first process


class _Whole:
    """A search that cannot be divided: one worker does all of it."""

    def __init__(self, work: Work, key: Key, budget_s: float) -> None:
        self.key = key
        self._work = work
        self._budget_s = budget_s
        self._is_running = False
        self._report: Report | None = None

    def submit_next(self, batches: Batches) -> int | None:
        if self._is_running:
            return None
        self._is_running = True
        return batches.submit(partial(_whole, self._work, self.key, self._budget_s))

    def take(self, number: int, answer: Report, workers: int) -> None:
        self._report = answer

    def report(self) -> Report | None:
        return self._report

    def show(self, show: Show) -> bool:
        return False


@dataclass(eq=False, slots=True)
class _Piece:
    """A part, with its findings. It is visited once nothing of it remains."""

    part: Scheduler
    findings: Findings = field(default_factory=Findings)
    slice_s: float = SLICE_MIN_S
    is_running: bool = False
    is_visited: bool = False
    was_cut: bool = False


class _Search:
    """One tree: its pieces in order, and the next task."""

    def __init__(
        self, work: Work, key: Key, scheduler: Divisible, budget_s: float, until: float
    ) -> None:
        self.key = key
        self._work = work
        self.scheduler = scheduler
        self.begun = perf_counter()
        self.conclusion: Conclusion | None = None
        # Seconds of one worker, and when it ends for all of them, by `perf_counter`.
        self._budget_s = budget_s
        self._until = until
        # Of the rounds before this one.
        self._before = Findings()
        self._pieces: list[_Piece] = []
        self._findings: Findings | None = None
        self._is_concluding = False
        self._begin_round()

    @property
    def _left_s(self) -> float:
        return min(self._budget_s, self._until - perf_counter())

    @property
    def waiting(self) -> list[_Piece]:
        return [each for each in self._pieces if not (each.is_running or each.is_visited)]

    @property
    def findings(self) -> Findings:
        """All findings, in the tree's order."""
        if self._findings is not None:
            return self._findings
        merged = Findings()
        for each in (self._before, *(piece.findings for piece in self._pieces)):
            merged.add(each)
        return merged

    def submit_next(self, batches: Batches) -> int | None:
        """Submits the next task of this search, if there is one now; its number."""
        if self._findings is None and self._left_s <= 0:
            # Also if it began when its budget was spent already.
            self._end_round_if_visited()
        if self._findings is None:
            return self._submit_part(batches)
        if self._is_concluding or self.conclusion is not None:
            return None
        self._is_concluding = True
        is_exhausted = self.scheduler.is_exhausted
        is_whole = self.scheduler.complete == 1.0
        arguments = (self._work, self.key, self._findings, self._left_s, is_exhausted, is_whole)
        return batches.submit(partial(_conclude, *arguments))

    def take(self, number: int, answer: PartDone | Found, workers: int) -> None:
        """Takes a worker's result; the rest of its part is divided if others would be idle."""
        if not isinstance(answer, PartDone):
            self._findings, self.conclusion = answer
            return
        self._budget_s -= answer.seconds
        self._round_s += answer.seconds
        self._take_part(self._running.pop(number), answer.part, answer.findings)
        self._divide(workers)
        self._end_round_if_visited()

    def show(self, show: Show) -> bool:
        return show(self.key, self.begun, self.findings, self.scheduler)

    def report(self) -> Report | None:
        """None until all is done."""
        if self._findings is None or self.conclusion is None:
            return None
        report = make_report(
            self._work.problem_of(self.key),
            self.scheduler,
            self._findings,
            self.conclusion,
            perf_counter() - self.begun,
        )
        if report.complete is not None and not self.scheduler.is_exhausted:
            # The scheduler has divided itself, so it does not know what its parts have visited.
            return replace(report, complete=self._complete)
        return report

    def _begin_round(self) -> None:
        self._running: dict[int, _Piece] = {}
        self._complete = 0.0
        # Seconds of one worker.
        self._round_s = 0.0
        part = self.scheduler.begin_round()
        self._pieces = [_Piece(part)] if part is not None else []
        if part is None:
            self._findings = self._before

    def _submit_part(self, batches: Batches) -> int | None:
        waiting, left_s = self.waiting, self._left_s
        if not waiting or left_s <= 0:
            return None
        piece = waiting[0]
        piece.is_running = True
        # What cannot be divided cannot be resumed, either.
        slice_s = left_s
        if isinstance(piece.part, Part):
            slice_s = min(piece.slice_s, self._last_slice_s(batches.workers), left_s)
        arguments = (self._work, self.key, piece.part, slice_s, left_s)
        number = batches.submit(partial(_search_part, *arguments))
        self._running[number] = piece
        return number

    def _last_slice_s(self, workers: int) -> float:
        """Half of what each worker may have left, if the rest of the tree is like what was seen."""
        parts = [each.part for each in self._pieces if not each.is_visited]
        unseen = sum(part.unseen for part in parts if isinstance(part, Part))
        if unseen >= 1:
            return SLICE_MAX_S
        return max(SLICE_LAST_S, self._round_s * unseen / (1 - unseen) / (2 * workers))

    def _take_part(self, piece: _Piece, part: Scheduler, findings: Findings) -> None:
        if piece not in self._pieces:
            return
        piece.findings.add(findings)
        piece.part, piece.is_running = part, False
        piece.slice_s = min(2 * piece.slice_s, SLICE_MAX_S)
        piece.is_visited = piece.findings.stopped is None or piece.findings.is_final
        piece.was_cut = isinstance(part, Part) and part.was_cut
        if piece.findings.is_final:
            # One process would never have reached what is after it.
            del self._pieces[self._pieces.index(piece) + 1 :]
        elif isinstance(part, Part) and not piece.is_visited:
            part.resume()

    def _divide(self, workers: int) -> None:
        for piece in self.waiting:
            while len(self.waiting) < PARTS_AHEAD * workers and isinstance(piece.part, Part):
                later = piece.part.split()
                if later is None:
                    break
                new = _Piece(later, slice_s=piece.slice_s)
                # What was found out about the rest holds for both.
                new.findings.stopped = piece.findings.stopped
                self._pieces.insert(self._pieces.index(piece) + 1, new)

    def _end_round_if_visited(self) -> None:
        if any(piece.is_running for piece in self._pieces):
            return
        merged = self.findings
        open_pieces = self.waiting
        is_interrupted = any(piece.findings.stopped is Stop.INTERRUPTED for piece in open_pieces)
        if open_pieces and self._left_s > 0 and not is_interrupted:
            return
        failed = bool(self._pieces) and self._pieces[-1].findings.is_final
        if open_pieces and not failed:
            merged.stopped = Stop.INTERRUPTED if is_interrupted else Stop.OUT_OF_BUDGET
            whys = (piece.findings.stopped_why for piece in open_pieces)
            merged.stopped_why = next(filter(None, whys), None)
            parts = [piece.part for piece in open_pieces]
            self._complete = 1.0 - sum(part.unseen for part in parts if isinstance(part, Part))
            self._findings = merged
        elif failed:
            self._complete = self._pieces[-1].part.complete or 0.0
            self._findings = merged
        else:
            self.scheduler.end_round(any(piece.was_cut for piece in self._pieces))
            self._before = merged
            self._begin_round()


class Team:
    """Workers that do searches together.

    work: how each search is done. show: called with the running search, and interrupts all by
    returning True.
    """

    def __init__(self, executor: Executor, work: Work, show: Show) -> None:
        self._executor = executor
        self._batches = Batches(executor)
        self._work = work
        self._show = show

    def play(
        self,
        searches: Iterable[tuple[Key, Divisible | None]],
        budget_of: Callable[[int], float],
        until: float = math.inf,
    ) -> Iterator[tuple[Key, Report]]:
        """The searches in their order, each by as many workers as it keeps busy.

        budget_of: the seconds that all workers may take for a search, called as it begins, with
        the number of those that began before. A search begins when the others leave a worker
        idle; without a scheduler it is run whole. until: when those that are divided end, by
        `perf_counter`, though they have not kept all workers busy.
        """
        look_ahead()
        to_come = self._each(searches, budget_of, until)
        running: list[_Search | _Whole] = []
        submitted: dict[int, _Search | _Whole] = {}
        while True:
            self._occupy_all(submitted, running, to_come)
            if not submitted:
                return
            for number, answer in self._batches.answers():
                one = submitted.pop(number)
                if one not in running:
                    # That search is over: this was a part behind the failure that ended it.
                    continue
                one.take(number, answer, self._executor.workers)
                report = one.report()
                if report is not None:
                    running.remove(one)
                    yield one.key, report
            if any(one.show(self._show) for one in running[:1]):
                self._executor.cancel()
                to_come = iter(())

    def _each(
        self,
        searches: Iterable[tuple[Key, Divisible | None]],
        budget_of: Callable[[int], float],
        until: float,
    ) -> Iterator[_Search | _Whole]:
        for begun, (key, scheduler) in enumerate(searches):
            budget_s = budget_of(begun)
            if scheduler is not None:
                seconds = budget_s * self._executor.workers
                yield _Search(self._work, key, scheduler, seconds, until)
            else:
                yield _Whole(self._work, key, budget_s)

    def _occupy_all(
        self,
        submitted: dict[int, _Search | _Whole],
        running: list[_Search | _Whole],
        to_come: Iterator[_Search | _Whole],
    ) -> None:
        """Gives every worker something to do, as long as there is anything."""
        while len(submitted) < self._executor.workers:
            found = self._next_of(running)
            if found is not None:
                submitted[found[0]] = found[1]
            elif (one := next(to_come, None)) is not None:
                running.append(one)
            else:
                return

    def _next_of(self, searches: list[_Search | _Whole]) -> tuple[int, _Search | _Whole] | None:
        for one in searches:
            number = one.submit_next(self._batches)
            if number is not None:
                return number, one
        return None
