"""Watches the workers of `onestream serve --workers N`, so that none holds up another, or a signal.

uvicorn's own supervisor waits for one worker after the other: for one that dies while it is asked,
for as long as it may take to answer, and meanwhile no signal is taken. Here a look waits for
nothing. What is late is counted in looks, not by a clock: where supervisor and workers stood still
together, the workers have their time to answer afterwards.
"""

from __future__ import annotations

import logging
import pickle
import signal
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from server.lines import line
from server.supervised import interrupts_held_back

_logger = logging.getLogger("onestream.server")

LOOK_S = 0.25


class Worker:
    """A process, as far as its supervisor has seen."""

    def __init__(self, process: Process) -> None:
        self._process = process
        # Whether it has said that it serves.
        self.serves = False
        # How often it was looked at since it was asked, or told to end; of one that does not serve
        # yet, since it began: it may answer, and hang in its start-up.
        self.looks = 0
        # The same since it was found to have refused.
        self.looks_refused = 0
        self._was_killed = False
        self._is_asked = False
        process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def is_over(self) -> bool:
        return not self._process.process.is_alive()

    @property
    def lives(self) -> bool:
        """It is neither over nor killed, which the system may take long for."""
        return not self._was_killed and not self.is_over

    @property
    def has_refused(self) -> bool:
        """It said itself why it would not start, and another would say the same now."""
        return self._process.exitcode == STARTUP_FAILURE

    def look(self) -> None:
        """Takes its answer, if there is one, and asks it anew."""
        self.looks += 1
        try:
            if self._is_asked and self._process.parent_conn.poll(0):
                self.serves = self._process.parent_conn.recv() is True
                self._is_asked = False
            if not self._is_asked:
                self._process.parent_conn.send(b"ping")
                self._is_asked = True
                if self.serves:
                    self.looks = 0
        except (OSError, EOFError, pickle.UnpicklingError):
            # It is about to end; until then it counts as silent.
            pass

    def tell_to_end(self) -> None:
        self.looks = 0
        self._process.terminate()

    def kill(self) -> None:
        self._was_killed = True
        self._process.kill()

    def join(self, patience_s: float) -> None:
        self._process.process.join(patience_s)


class Supervisor(Multiprocess):
    """health_s: who does not answer for so long is killed; a new worker has as long to start.
    Once all have served, one that refuses to start is followed by another after as long.

    on_ready: called once, when all workers serve.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        *,
        health_s: float,
        on_ready: Callable[[], None],
        make: Callable[[uvicorn.Config, list[socket.socket]], Process] = Process,
    ) -> None:
        """make: a process that is not started yet."""
        super().__init__(config, sockets)
        self.has_failed = False
        # Which signals have told it to end.
        self.told: list[signal.Signals] = []
        self._make = make
        self._on_ready: Callable[[], None] | None = on_ready
        self._looks_max = round(health_s / LOOK_S)
        self._grace_looks = round((config.timeout_graceful_shutdown or 0) / LOOK_S)
        self._workers: list[Worker] = []
        # Told to end; nothing else is expected of them.
        self._ending: list[Worker] = []
        # Of a rolling restart: who is yet to be replaced, in their order, and who is to take the
        # place of the first of them as soon as it serves.
        self._old: list[Worker] = []
        self._newcomer: Worker | None = None

    def run(self) -> None:
        self._workers = [self._started() for _ in range(self.processes_num)]
        while not self.should_exit.wait(LOOK_S):
            self.handle_signals()
            # Ctrl-C reaches the workers as well: those that it has ended have no successors.
            if not self.should_exit.is_set():
                self.look()
        self._end_all()
        while self._ending:
            self._ending[0].join(LOOK_S)
            self._look_at_ending()

    def look(self) -> None:
        """Waits for nothing."""
        self._look_at_ending()
        for place, worker in enumerate(self._workers):
            if worker.is_over:
                self._replace(place, worker)
            else:
                worker.look()
                self._kill_if_late(worker)
        self._go_on_restarting()
        if self._on_ready is not None and all(each.serves for each in self._workers):
            self._on_ready()
            self._on_ready = None

    @property
    def was_ready(self) -> bool:
        """Whether all workers have served at a time."""
        return self._on_ready is None

    # -- signals

    def handle_int(self) -> None:
        self.told.append(signal.SIGINT)
        self.should_exit.set()

    def handle_term(self) -> None:
        self.told.append(signal.SIGTERM)
        self.should_exit.set()

    def restart_all(self) -> None:
        """Each worker is replaced, one after the other: the new one serves before the old ends."""
        self._old = list(self._workers)

    def handle_ttin(self) -> None:
        self._workers.append(self._started())

    def handle_ttou(self) -> None:
        if len(self._workers) > 1:
            self._end(self._workers.pop())

    # -- one worker

    def _started(self) -> Worker:
        with interrupts_held_back():
            return Worker(self._make(self.config, self.sockets))

    def _replace(self, place: int, worker: Worker) -> None:
        """One that has ended by itself, or was killed."""
        worker.kill()  # Closes what leads to it.
        if worker.has_refused and not self._may_follow(worker):
            return
        _logger.error(line("worker_ended", "another takes its place", pid=worker.pid))
        if self._newcomer is not None and self._old[0] is worker:
            self._workers[place], self._newcomer = self._newcomer, None
        else:
            self._workers[place] = self._started()

    def _kill_if_late(self, worker: Worker) -> None:
        if worker.looks >= self._looks_max and worker.lives:
            event = "worker_silent" if worker.serves else "worker_does_not_start"
            _logger.error(line(event, "it is killed", pid=worker.pid))
            worker.kill()

    def _may_follow(self, refused: Worker) -> bool:
        """Whether it is time to try another one in the place of one that would not start."""
        if not self.was_ready:
            # Its settings, or the address: another one would end as well.
            self.has_failed = True
            self.should_exit.set()
            return False
        # It may be its store, which is away: the others go on.
        refused.looks_refused += 1
        if refused.looks_refused == 1:
            sentence = "a worker would not start: those that serve go on, and another is tried"
            in_s = self._looks_max * LOOK_S
            _logger.error(line("worker_refused", sentence, pid=refused.pid, in_s=in_s))
        return refused.looks_refused > self._looks_max

    def _end(self, worker: Worker) -> None:
        worker.tell_to_end()
        self._ending.append(worker)

    def _end_all(self) -> None:
        for worker in (*self._workers, *([self._newcomer] if self._newcomer else [])):
            self._end(worker)
        self._workers, self._newcomer = [], None

    def _look_at_ending(self) -> None:
        for worker in self._ending:
            worker.looks += 1
            if worker.looks >= self._ending_max(worker) and worker.lives:
                _logger.error(line("worker_does_not_end", "it is killed", pid=worker.pid))
                worker.kill()
        self._ending = [each for each in self._ending if not each.is_over]

    def _ending_max(self, worker: Worker) -> int:
        """After how many looks it is killed. One that has never served has no streams to end: it
        imports, or waits for its store, and takes no signal meanwhile."""
        return max(1, self._grace_looks + (self._looks_max if worker.serves else 0))

    def _go_on_restarting(self) -> None:
        self._old = [each for each in self._old if each in self._workers]
        newcomer = self._newcomer
        if newcomer is None:
            if self._old and not self._ending:
                self._newcomer = self._started()
            return
        newcomer.look()
        if not self._old:
            # Who was to be replaced has been taken away meanwhile.
            self._newcomer = None
            self._end(newcomer)
        elif newcomer.serves:
            old = self._old.pop(0)
            self._workers[self._workers.index(old)], self._newcomer = newcomer, None
            self._end(old)
        elif newcomer.is_over or newcomer.looks >= self._looks_max:
            sentence = "a new worker does not start: those that serve are left as they are"
            _logger.error(line("restart_given_up", sentence, pid=newcomer.pid))
            self._old, self._newcomer = [], None
            newcomer.kill()
            self._ending.append(newcomer)
