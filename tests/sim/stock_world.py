"""The same programs on stock asyncio, with noise: sockets, threads and timers of the system.

An outside event is a socket that becomes readable, at a poll that the noise chooses. What is random
here is only what the system leaves open: when a socket is readable, in which order a selector names
several, how late the loop is, which thread runs. The loop is asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

THREADS_SILENT_S = 0.3
"""How long a loop that waits for threads alone is waited for."""
IDLE_SILENT_S = 0.01
"""The same where these seem to wait for work."""


_DRAIN_ROUNDS_MAX = 20


class Stuck(BaseException):
    """Nothing is left that could wake the loop."""


class Noise(selectors.BaseSelector):
    """A selector that lets time pass, orders what is ready at random, and makes sockets ready."""

    def __init__(self, random: Random, silent_s: float = 0.0) -> None:
        self.random = random
        self._silent_s = silent_s
        # The far ends of the sockets that outside events wait for.
        self.announced: list[socket.socket] = []
        # The loop's own, which knows which of its threads are idle.
        self.pool: Any = None
        self._selector = selectors.DefaultSelector()
        # How soon things come, in this run: many at once, or one after the other.
        self._likely = random.choice((0.05, 0.3, 0.3, 0.8))
        self._late = random.choice((0.0, 0.1, 0.4))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._let_things_come(timeout)
        if self.random.random() < self._late:
            time.sleep(self.random.choice((0.0, 0.0005, 0.003)))
        ready = self._selector.select(self._patience_s() if timeout is None else timeout)
        if not ready and timeout is None and not self.announced:
            raise Stuck
        self.random.shuffle(ready)
        return ready

    def _patience_s(self) -> float:
        """How long to wait where only an outside event or a thread could wake the loop."""
        threads = threading.active_count() - 1
        pool = self.pool
        if pool is not None and threads == len(pool._threads) <= pool._idle_semaphore._value:
            return IDLE_SILENT_S
        return THREADS_SILENT_S if threads else self._silent_s

    def _let_things_come(self, timeout: float | None) -> None:
        self.random.shuffle(self.announced)
        coming = [each for each in self.announced if self.random.random() < self._likely]
        if timeout is None and not coming:
            coming = self.announced[:1]
        for each in coming:
            self.announced.remove(each)
            each.send(b"x")

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()


class StockWorld:
    """What `World` offers a program, on a loop of the system's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, noise: Noise) -> None:
        self.loop = loop
        self.labels: set[str] = set()
        self.violated: str | None = None
        self._noise = noise

    @property
    def now(self) -> float:
        return self.loop.time()

    async def outside(
        self,
        name: str,
        *args: Any,
        call: Callable[..., object] | None = None,
        earliest: float = 0.0,
        latest: float | None = None,
    ) -> None:
        """A socket that becomes readable; `latest` is kept as far as the machine is fast."""
        reading, writing = socket.socketpair()
        waiter = self.loop.create_future()

        def readable() -> None:
            self.loop.remove_reader(reading)
            try:
                if call is not None:
                    call(*args)
            finally:
                if not waiter.done():
                    waiter.set_result(None)

        self.loop.add_reader(reading, readable)
        timer = self.loop.call_later(earliest, self._noise.announced.append, writing)
        if not earliest:
            timer.cancel()
            self._noise.announced.append(writing)
        try:
            await waiter
        finally:
            timer.cancel()
            self.loop.remove_reader(reading)
            with contextlib.suppress(ValueError):
                self._noise.announced.remove(writing)
            reading.close()
            writing.close()

    def choose(self, name: str, options: Sequence[T]) -> T:
        return self._noise.random.choice(options)

    def check(self, condition: object, sentence: str, detail: str = "") -> None:
        if not condition:
            self.violated = self.violated or sentence
            raise AssertionError(f"{sentence} ({detail})")

    def reached(self, label: str) -> None:
        self.labels.add(label)

    def offer_cancels(self, to: object = None) -> None:
        """Nobody cancels here but the program."""

    def declare(self, *files: str, in_loop: bool = False) -> None:
        """The system's threads are overtaken anywhere."""


@contextlib.contextmanager
def many_switches() -> Iterator[None]:
    """Threads are switched as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run_on_stock(
    program: Callable[[StockWorld], Awaitable[T]],
    seed: int,
    on_stuck: Callable[[], None] = lambda: None,
    silent_s: float = 0.0,
) -> tuple[StockWorld, T | BaseException]:
    """One run: the world, and what the program returned, raised, or Stuck.

    on_stuck: called where nothing could wake the loop any more, before what is left is cancelled.
    silent_s: how long it is waited for what connections of the program's own may still bring.
    """
    noise = Noise(Random(seed), silent_s)
    loop = asyncio.SelectorEventLoop(noise)
    noise.pool = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(noise.pool)
    loop.set_exception_handler(lambda loop, context: None)
    world = StockWorld(loop, noise)

    async def main() -> T | BaseException:
        try:
            return await program(world)
        except Exception as exc:
            return exc

    result: T | BaseException
    try:
        result = loop.run_until_complete(main())
    except Stuck as exc:
        result = exc
        on_stuck()
    _drain(loop)
    return world, result


def _drain(loop: asyncio.AbstractEventLoop) -> None:
    """As `asyncio.run` does at its end."""
    for _ in range(_DRAIN_ROUNDS_MAX):
        if not (left := asyncio.all_tasks(loop)):
            break
        for task in left:
            task.cancel()
        # Those that swallow it and wait again are cancelled again.
        with contextlib.suppress(Stuck):
            loop.run_until_complete(asyncio.wait(left, timeout=0.01))
    loop.run_until_complete(loop.shutdown_asyncgens())
    with contextlib.suppress(Stuck, RuntimeError):
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
