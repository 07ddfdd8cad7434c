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
from sim.kernel.network.streams import StreamSocket

T = TypeVar("T")

NOT_SIMULATED = (
    "simulated are stream and datagram sockets of IPv4 and IPv6, and Unix sockets; let the program "
    "use one of these, or put what stands behind it into a coroutine that awaits world.outside(…)"
)
_RECEIVES = ("recv", "recvfrom")
_READS = (*_RECEIVES, "accept")


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
        begun_s: float | None = None,
    ) -> T:
        """Acts at once, or when it can, as far as its time limit lets.

        can: whether it is worth another try; by what its socket is ready for, unless it is given.
        begun_s: since when its time limit runs; from now on, unless it is given.
        """

        def system_waits() -> bool:
            # By O_NONBLOCK, which a duplicate may have set or cleared.
            return opened.blocks and not flags & getattr(socket, "MSG_DONTWAIT", 0)

        def finds_nothing() -> bool:
            is_read = what == "accept" if opened.is_listening else what in _RECEIVES
            return is_read and opened.ends_waits_alone() and not system_waits()

        def can_act() -> bool:
            # Where poll says so in vain, Python asks again and again until its time limit.
            return not finds_nothing() and (can() if can else _can(what, opened))

        def acts() -> T:
            if finds_nothing():
                raise would_block()
            return act()

        # With a time limit it is Python that waits, before it asks the system.
        while not self._sim_timeout or can_act():
            try:
                return acts()
            except BlockingIOError:
                if self._sim_timeout or system_waits():
                    break
                if what not in _READS or not self._sim_network.arrives_already(opened):
                    raise
        with self._sim_network.held(opened):
            return self._sim_act_later(what, opened, acts, can_act, begun_s)

    def _sim_act_later(
        self,
        what: str,
        opened: OpenSocket,
        act: Callable[[], T],
        can: Callable[[], bool],
        begun_s: float | None,
    ) -> T:
        begun_s = self._sim_now() if begun_s is None else begun_s
        while True:
            opened.blocked_readers += what in _READS
            try:
                self._sim_wait(what, can, begun_s)
            finally:
                opened.blocked_readers -= what in _READS
            # Another thread may have been first.
            with suppress(BlockingIOError):
                return act()

    def _sim_now(self) -> float:
        execution = execution_of_this_thread()
        assert execution is not None
        return execution.loop.environment.now

    def _sim_wait(self, what: str, is_so: Callable[[], bool], begun_s: float | None = None) -> None:
        """Its time limit runs from then on, or from now.

        Who closes the socket meanwhile does not wake who waits, as Linux has it.

        Without a time limit the call goes on with what it has opened. With one it is Python that
        waits, and its next call finds the descriptor closed.
        """
        if is_so():
            return
        # Without a time limit, and with one of 0, it is the system that waits.
        fd, limit_s = self._sim_fd, self._sim_timeout or None
        if limit_s is None:
            self._sim_wait_in_system(what, is_so)
            return
        waited_s = 0.0 if begun_s is None else self._sim_now() - begun_s
        came = self._sim_block(what, is_so, max(limit_s - waited_s, 0.0))
        is_open = fd in self._sim_network.open_by_fd
        if is_open and not came:
            raise timed_out()
        if not is_open or self._sim_fd < 0:
            raise os_error(errno.EBADF)

    def _sim_wait_in_system(self, what: str, is_so: Callable[[], bool]) -> None:
        if not self._sim_block(what, is_so, None):
            # A deadlock, which has been reported.
            raise would_block()

    def _sim_block(self, what: str, is_so: Callable[[], bool], limit_s: float | None) -> bool:
        """Whether it has come to be so."""
        execution = execution_of_this_thread()
        assert execution is not None
        where = f"socket.{what} of {in_words(self._sim_open.name)}"
        execution.loop.threads.block_until(where, is_so, limit_s)
        return is_so()

    def _sim_wait_for_more(self, opened: StreamSocket, seen: int) -> None:
        """Until it has more to read than that, or nothing more can come."""
        opened.blocked_readers += 1
        try:
            self._sim_wait_in_system(
                "recv", lambda: opened.bytes_held > seen or opened.has_all_there_is
            )
        finally:
            opened.blocked_readers -= 1

    def _sim_require(self, what: str, flags: int, known: int) -> None:
        if flags & ~known:
            self._sim_refuse(f"{what} with flags={socket.MsgFlag(flags)!r}")

    def _sim_lacks(self, name: str) -> NoReturn:
        self._sim_refuse(name)

    def _sim_refuse(self, what: str, instead: str = NOT_SIMULATED) -> NoReturn:
        self._sim_network.loop.refuse(f"socket.{what}", instead)


def _can(what: str, opened: OpenSocket) -> bool:
    return bool(opened.readiness() & (READABLE if what in _READS else WRITABLE))
