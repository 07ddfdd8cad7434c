"""A call of a simulated socket that waits: its worker thread is blocked until it can act."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from sim.kernel.current import execution_of_this_thread
from sim.kernel.network.addresses import in_words
from sim.kernel.network.errors import os_error, timed_out, would_block
from sim.kernel.network.network import Network
from sim.kernel.network.open_sockets import READABLE, WRITABLE, OpenSocket

T = TypeVar("T")

NOT_SIMULATED = (
    "simulated are stream and datagram sockets of IPv4 and IPv6, and Unix sockets; let the program "
    "use one of these, or put what stands behind it into a coroutine that awaits world.outside(…)"
)
_READS = ("recv", "recvfrom", "accept")


class Blocking:
    """_sim_fd: its descriptor, or -1. _sim_timeout: as `gettimeout` tells it."""

    _sim_fd: int
    _sim_open: OpenSocket
    _sim_network: Network
    _sim_timeout: float | None

    def _sim_try(
        self,
        what: str,
        opened: OpenSocket,
        act: Callable[[], T],
        flags: int = 0,
        can: Callable[[], bool] | None = None,
    ) -> T:
        """Acts at once, or when it can, as far as its time limit lets.

        can: whether it is worth another try; by what its socket is ready for, unless it is given.
        """
        # With a time limit it is Python that waits, before it asks the system.
        may_wait = not flags & getattr(socket, "MSG_DONTWAIT", 0)
        is_blocking = may_wait if self._sim_timeout is None else self._sim_timeout > 0
        can = can or (lambda: _can(what, opened))
        while not self._sim_timeout or can():
            try:
                return act()
            except BlockingIOError:
                if is_blocking:
                    break
                if what not in _READS or not self._sim_network.arrives_already(opened):
                    raise
        with self._sim_network.held(opened):
            return self._sim_act_later(what, opened, act, can)

    def _sim_act_later(
        self, what: str, opened: OpenSocket, act: Callable[[], T], can: Callable[[], bool]
    ) -> T:
        while True:
            opened.blocked_readers += what in _READS
            try:
                self._sim_wait(what, can)
            finally:
                opened.blocked_readers -= what in _READS
            # Another thread may have been first.
            with suppress(BlockingIOError):
                return act()

    def _sim_wait(self, what: str, is_so: Callable[[], bool]) -> None:
        """Who closes the socket meanwhile does not wake who waits, as Linux has it.

        Without a time limit the call goes on with what it has opened. With one it is Python that
        waits, and its next call finds the descriptor closed.
        """
        if is_so():
            return
        fd, limit_s = self._sim_fd, self._sim_timeout
        execution = execution_of_this_thread()
        assert execution is not None
        threads = execution.loop.threads
        where = f"socket.{what} of {in_words(self._sim_open.name)}"
        threads.block_until(where, is_so, limit_s)
        came = is_so()
        if limit_s is None:
            if not came:
                # A deadlock, which has been reported.
                raise would_block()
            return
        is_open = fd in self._sim_network.open_by_fd
        if is_open and not came:
            raise timed_out()
        if not is_open or self._sim_fd < 0:
            raise os_error(errno.EBADF)

    def _sim_require(self, what: str, flags: int, known: int) -> None:
        if flags & ~known:
            self._sim_refuse(f"{what} with flags={socket.MsgFlag(flags)!r}")

    def _sim_lacks(self, name: str) -> NoReturn:
        self._sim_refuse(name)

    def _sim_refuse(self, what: str, instead: str = NOT_SIMULATED) -> NoReturn:
        self._sim_network.loop.refuse(f"socket.{what}", instead)


def _can(what: str, opened: OpenSocket) -> bool:
    return bool(opened.readiness() & (READABLE if what in _READS else WRITABLE))
