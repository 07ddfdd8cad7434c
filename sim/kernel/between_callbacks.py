"""Which thread goes on, and which task is cancelled, between callbacks and in a blocked poll."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sim.kernel.among_hosts import HubOfHosts
from sim.kernel.environment import SAME_S, Environment
from sim.kernel.isolation.as_it_is import owner_of
from sim.kernel.network.polling import SocketLoop
from sim.kernel.notices import Special
from sim.kernel.schedule import GO_ON, ON_TIME, Bounds, Named, Option, one_natural
from sim.kernel.signals import SignalHandlers
from sim.kernel.threads.untold import IN_TIME_OR_TOO_LATE, NOT_FOR_THREADS, Untold
from sim.kernel.threads.workers import ReadyQueue, Threads, Worker

THREAD_TURNS_MAX = 10_000
"""How often threads go on within one poll; then they wait, as where the system lets others run."""

Costs = Callable[[Sequence[Any]], Sequence[int]]
Choose = Callable[[str, Sequence[Any], Costs], int]


class BetweenCallbacks(SignalHandlers, SocketLoop):
    """The part of a loop that lets threads go on, and has tasks cancelled."""

    _ready: deque[asyncio.Handle]
    environment: Environment
    choose: Choose
    bounds: Bounds
    threads: Threads

    # The processes of the execution, if it has any.
    hosts: HubOfHosts | None = None
    # Where the program called `stop`.
    stopped_in: str | None = None
    # At which poll a thread went on between two callbacks, and when first: see `_stand_still`.
    _stood_still = (0, 0.0)
    # Whether that is asked now.
    stands_still = False
    # Whether the selector was woken, as call_soon_threadsafe does, and what a thread has done to
    # the loop without that.
    _is_told = False
    _untold: Untold | None = None
    _never_found: Sequence[asyncio.Handle] = ()
    # Where a thread called the loop last, in a traced execution.
    touched_in: str | None = None
    _cancels_offered_to: Callable[[asyncio.Task[Any]], bool] | None = None
    # The names of tasks that took a step without being offered a cancel, where others were.
    cancels_withheld: frozenset[str] = frozenset()

    # What a SimLoop brings.

    def _next_deadline(self) -> float:
        raise NotImplementedError

    def _let_spin(self) -> None:
        raise NotImplementedError

    # -- threads

    def interleave(self, threads: Threads) -> None:
        """There are workers now: they may go on between any two callbacks."""
        self.environment.observer.meets(Special.WORKER_THREADS)
        self.watch_steps()
        threads.set_loop_trace()

    def watch_steps(self) -> None:
        """From now on `between_steps` and `about_to_run` are called before each callback."""
        if not isinstance(self._ready, ReadyQueue):
            self._ready = ReadyQueue(self._ready, self.between_steps, self.about_to_run)

    def between_steps(self) -> None:
        """Between two callbacks, or two declared lines: a worker may go on first."""
        threads = self.threads
        while threads.workers and (runnable := threads.runnable()):
            options: list[Named] = [GO_ON, *runnable]
            option = self.choose("thread", options, one_natural)
            if option == 0:
                return
            self._step_between(runnable[option - 1])
            if self.environment.spins:
                self._let_spin()
            self._stand_still()

    def _step_between(self, worker: Worker) -> None:
        """A thread goes on between two callbacks, where the loop finds whatever it puts in."""
        callbacks, self._is_told = len(self._ready), False
        self.threads.step(worker)
        if len(self._ready) != callbacks and not self._is_told:
            self.threads.undeclared.add(NOT_FOR_THREADS)

    def _stand_still(self) -> None:
        """The loop's thread may have no turn while another sleeps, too, and so not go on yet.

        So a thread that sleeps twice may have slept twice before the next callback. What is due
        meanwhile fires at the next poll, as this one is over.
        """
        env = self.environment
        if self._stood_still[0] != env.polls:
            self._stood_still = env.polls, env.now
        wakes = self.threads.next_wake_up()
        late = self._stood_still[1] + self.bounds.lateness_s
        if wakes > min((a.latest for a in env.pending), default=late) or wakes > late:
            return
        self.stands_still = True
        if self.choose("clock", [ON_TIME, Option(f"late, at {wakes:.3f} s")], one_natural):
            env.advance(wakes)
        self.stands_still = False

    def _step_while_blocked(self, worker: Worker) -> None:
        """A thread goes on while the loop is in its poll, which ends if it is told.

        A callback that joins the queue without that is found when something else ends the poll,
        and a timer is none of those that the poll waits for. In its first instant the loop may not
        have looked yet.
        """
        deadline = self._next_deadline()
        self.threads.before_step = deadline, len(self._ready), self.stopped_in
        self._is_told = False
        self.threads.step(worker)
        is_unchanged, self.threads.before_step = self._is_as_before_step(), None
        if self._is_told:
            self._untold = None
            return
        if is_unchanged:
            return
        self.threads.undeclared.add(NOT_FOR_THREADS)
        name = worker.identity.shown
        if self._untold is None and self.environment.now - self.environment.blocked_from < SAME_S:
            options = [Option(each.format(name)) for each in IN_TIME_OR_TOO_LATE]
            if not self.choose("poll", options, one_natural):
                return
        self._untold = Untold(len(self._ready), deadline, name, self.touched_in)

    def _is_as_before_step(self) -> bool:
        assert self.threads.before_step is not None
        deadline, callbacks, stopped_in = self.threads.before_step
        is_in_queue = len(self._ready) == callbacks and self._next_deadline() >= deadline
        return is_in_queue and self.stopped_in is stopped_in

    def must_go_on(self, worker: Worker) -> bool:
        """At a switch point of this worker: whether nothing but its next step could be chosen.

        Then it need not stand, which saves two switches: most lines that are switch points are
        such. False also where that would be long to tell.
        """
        if (
            self.threads.before_step is None
            or self._is_told
            or self.threads.turns >= THREAD_TURNS_MAX
        ):
            return False
        if self._network is not None or self.hosts is not None:
            return False
        env = self.environment
        now = env.now
        if env.peek() <= now or any(arrival.earliest <= now for arrival in env.pending):
            return False
        threads = self.threads
        if any(each is not worker and each.is_runnable for each in threads.workers):
            return False
        late = now + self.bounds.lateness_s
        if self._next_deadline() <= late or threads.next_wake_up() <= late:
            return False
        if not self._is_as_before_step():
            return False
        self.threads.turns += 1
        self.threads.turns_seen = max(self.threads.turns_seen, self.threads.turns)
        return True

    def _leave_untold(self) -> str:
        """The poll never ends. What threads have put into the queue, in words, and not in it."""
        if self._untold is None:
            return ""
        words = self._untold.words()
        # Stopped, a loop runs what is in its queue.
        self._never_found = [*self._ready]
        self._ready.clear()
        self._untold = None
        return f"{words};\n"

    def choose_worker(self, runnable: Sequence[Worker]) -> Worker | None:
        """Which one goes on while the loop's own thread is blocked; None where time passes first.

        The system keeps a thread that could go on waiting for `lateness_s` at most.
        """
        env = self.environment
        following = env.peek()
        options: list[Named] = [*runnable]
        if env.now < following <= env.now + self.bounds.lateness_s:
            options.append(Option(f"late, at {following:.3f} s"))
        option = self.choose("thread", options, one_natural) if len(options) > 1 else 0
        if option < len(runnable):
            return runnable[option]
        env.advance(following)
        return None

    # -- cancels

    def offer_cancels(self, to: Callable[[asyncio.Task[Any]], bool]) -> None:
        """Before each step of these tasks, a cancel of it is a choice."""
        self._cancels_offered_to = to
        self.watch_steps()

    def about_to_run(self, handle: asyncio.Handle) -> None:
        """Called with each handle taken from the ready queue; offers a cancel where asked to."""
        to = self._cancels_offered_to
        if to is None or handle.cancelled():
            return
        task = owner_of(handle._callback)  # type: ignore[attr-defined]
        if isinstance(task, asyncio.Task) and not task.done():
            name = task.get_name()
            if not to(task):
                self.cancels_withheld |= {name}
                return
            options = [Option(f"{name} goes on"), Option(f"{name} is cancelled")]
            if self.choose("cancel", options, one_natural):
                task.cancel()
