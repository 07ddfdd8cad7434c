"""Descriptors, who watches them, and what is told of them at a poll."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sim.kernel.network.conditions import Conditions, LoopOfSockets
from sim.kernel.network.errors import os_error
from sim.kernel.network.open_sockets import HELD, OpenSocket
from sim.kernel.schedule import Option, one_natural

FIRST_FD = 1_000_000
"""Descriptors are numbers that no real one has, so that none is taken for another."""


class Watch(NamedTuple):
    """What a loop wants to know of a descriptor."""

    loop: LoopOfSockets
    key: Any


class Watched(Conditions):
    """open_by_fd: what each descriptor stands for. watches: which are watched, by whom."""

    def __init__(self, loop: LoopOfSockets) -> None:
        super().__init__(loop)
        self.open_by_fd: dict[int, OpenSocket] = {}
        self.watches: dict[int, Watch] = {}
        # What a call blocks in: once for each such call.
        self.blocked: list[OpenSocket] = []
        self._fds = itertools.count(FIRST_FD)
        # The loops that are in a poll.
        self._polling: set[LoopOfSockets] = set()
        # What this poll has told of which descriptor.
        self._told: dict[int, int] = {}

    # -- descriptors

    def new_fd(self, opened: OpenSocket) -> int:
        fd = next(self._fds)
        self.open_by_fd[fd] = opened
        opened.fds.append(fd)
        return fd

    def opened(self, fd: int) -> OpenSocket:
        found = self.open_by_fd.get(fd)
        if found is None:
            raise os_error(errno.EBADF)
        return found

    def close(self, fd: int) -> bool:
        """Whether it was open."""
        opened = self.open_by_fd.pop(fd, None)
        if opened is not None:
            self._let_go_of(opened, fd)
        return opened is not None

    @contextmanager
    def held(self, opened: OpenSocket) -> Iterator[None]:
        """By a call that blocks in it, which nobody wakes or ends by closing it meanwhile."""
        opened.fds.append(HELD)
        self.blocked.append(opened)
        try:
            yield
        finally:
            self._blocks_no_more(opened)

    def _blocks_no_more(self, opened: OpenSocket) -> None:
        # Its process may have ended before.
        if opened in self.blocked:
            self.blocked.remove(opened)
            self._let_go_of(opened, HELD)

    def _let_go_of(self, opened: OpenSocket, fd: int) -> None:
        # The power of its machine may have failed.
        if fd in opened.fds:
            opened.fds.remove(fd)
            if not opened.fds:
                opened.closed()

    # -- polls

    def begin_poll(self, loop: LoopOfSockets) -> None:
        self._polling.add(loop)
        for fd in [fd for fd in self._told if self._is_watched_by(fd, loop)]:
            del self._told[fd]

    def _is_watched_by(self, fd: int, loop: LoopOfSockets) -> bool:
        watch = self.watches.get(fd)
        return watch is None or watch.loop is loop

    def tell_ready(self, loop: LoopOfSockets) -> None:
        """Of what is ready and was not told in this poll, its loop is told, in any order."""
        ready = [(fd, watch) for fd, watch in self.watches.items() if watch.loop is loop]
        ready = [each for each in ready if self._mask(*each)]
        while len(ready) > 1:
            options = [Option(f"{self.open_by_fd[fd].words} is served first") for fd, _ in ready]
            self._tell(*ready.pop(self.loop.choose("network", options, one_natural)))
        for each in ready:
            self._tell(*each)

    def tell(self, opened: OpenSocket) -> None:
        """Something has landed there: the loop that watches it learns of it in this poll.

        Outside of polls nobody is told: the next poll finds it.
        """
        for fd in opened.fds if self._polling else ():
            watch = self.watches.get(fd)
            if watch is not None and watch.loop in self._polling:
                self._tell(fd, watch)

    def end_poll(self, loop: LoopOfSockets) -> None:
        self._polling.discard(loop)

    def _mask(self, fd: int, watch: Watch) -> int:
        """For what it is ready, of what its loop wants to know and was not told in this poll."""
        opened = self.open_by_fd.get(fd)
        if opened is None:
            return 0
        mask: int = opened.readiness() & watch.key.events & ~self._told.get(fd, 0)
        return mask

    def _tell(self, fd: int, watch: Watch) -> None:
        mask = self._mask(fd, watch)
        if mask:
            self._told[fd] = self._told.get(fd, 0) | mask
            watch.loop._process_events([(watch.key, mask)])
            # Who has made it ready, the poll that watches it ends.
            watch.loop._write_to_self()

    def _is_watched_for(self, opened: OpenSocket, mask: int) -> bool:
        """By a loop that is in a poll."""
        watches = [self.watches.get(fd) for fd in opened.fds]
        return any(
            each is not None and each.loop in self._polling and each.key.events & mask
            for each in watches
        )

    # -- reports

    def who_waits(self) -> list[str]:
        """A sentence for each descriptor that a loop watches."""
        found = []
        for fd, watch in self.watches.items():
            opened = self.open_by_fd.get(fd)
            if opened is not None:
                found.append(f"the loop waits {opened.words_of_wait(watch.key.events)}")
        return found
