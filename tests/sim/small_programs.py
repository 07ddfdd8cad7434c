"""Random programs so small that all their schedules can be run: also with threads and callbacks.

The statements of `random_programs` and, beside them, jobs in workers and in threads of their own,
thread locals, and outside events that call something in their poll's own iteration. What can be
seen of a run is the list of its notes, in order. A note is taken under a lock: a simulated thread
may be overtaken where it acquires one.

One thing that stock asyncio does is left out, since the arrival model leaves it out: timers that
are due within a microsecond always fire in one iteration, so each is armed for a time of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.sim.random_programs import Writer

HEAD = """\
import asyncio
import contextvars
import itertools
import threading
import time

whose = contextvars.ContextVar("whose", default="nobody")


async def program(world, log):
    loop = asyncio.get_running_loop()
    mutex, begun, here = threading.Lock(), threading.Event(), threading.local()
    here.value = "set by the loop"
    lock, semaphore, event = asyncio.Lock(), asyncio.Semaphore(1), asyncio.Event()
    queue, future = asyncio.Queue(1), loop.create_future()
    tasks, threads = [], []
    armed = itertools.count(1)

    def soon():
        return next(armed) / 1000

    def note(text):
        with mutex:
            log.append(text)

    def offer(item):
        queue.full() or queue.put_nowait(item)

    def in_thread(job):
        threads.append(threading.Thread(target=job))
        threads[-1].start()

    def who():
        is_main = threading.current_thread() is threading.main_thread()
        value = getattr(here, "value", "unset")
        return f"{'main' if is_main else 'worker'}, {value}, {whose.get()}"

"""

TAIL = """
    for task in tasks:
        task.add_done_callback(lambda task: note(f"{task.get_name()} is done"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for thread in threads:
        thread.join()
    kinds = [type(each).__name__ for each in results]
    note(f"{kinds}, {queue.qsize()}, {lock.locked()}, {event.is_set()}, {who()}")
"""


class SmallWriter(Writer):
    """Few actors of few statements."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.jobs = 0
        # Each of these multiplies the schedules, threads most.
        self.outside_left, self.jobs_left = random.choice(((2, 0), (2, 1), (1, 1), (1, 1), (0, 2)))

    def flat(self) -> list[Callable[[], None]]:
        statements = [self.wait, self.wait, self.act, self.act, self.cancel]
        if self.outside_left:
            statements += [self.outside, self.outside, self.calls_outside]
        if self.jobs_left:
            statements += [self.runs_job, self.runs_job]
        return statements

    def delay(self) -> str:
        return self.random.choice(("0", "soon()"))

    def target(self) -> str:
        """Something to call without a risk, with its arguments."""
        return self.random.choice(
            (
                "event.set",
                "event.set",
                f"tasks[{self.number(2)}].cancel",
                f"note, {self.name()!r}",
                "future.cancel",
            )
        )

    def wait(self) -> None:
        self.write(
            self.random.choice(
                (
                    "await asyncio.sleep(0)",
                    "await asyncio.sleep(soon())",
                    "await event.wait()",
                    "note(await queue.get())",
                    f"await queue.put('{self.number(9)}')",
                    "await asyncio.shield(future)",
                    f"await asyncio.wait([future], timeout={self.delay()})",
                )
            )
        )

    def outside(self) -> None:
        self.outside_left -= 1
        self.write(f"await world.outside('{self.name()} comes')")

    def calls_outside(self) -> None:
        self.outside_left -= 1
        name, target = self.name(), self.target()
        call, _, args = target.partition(", ")
        event = f"world.outside({', '.join(filter(None, (repr(name), args)))}, call={call})"
        self.write(
            self.random.choice((f"await {event}", f"tasks.append(loop.create_task({event}))"))
        )

    def act(self) -> None:
        self.write(
            self.random.choice(
                (
                    "event.set()",
                    "event.clear()",
                    "future.done() or future.set_result(None)",
                    "queue.empty() or note(queue.get_nowait())",
                    f"note(world.choose({self.name()!r}, ('calm', 'busy')))",
                    f"loop.call_soon({self.target()})",
                    f"loop.call_soon_threadsafe({self.target()})",
                    f"loop.call_later({self.delay()}, {self.target()})",
                    "begun.set()",
                    "raise ValueError('of an actor')",
                    "note(who())",
                )
            )
        )

    def cancel(self) -> None:
        self.write(f"tasks[{self.number(2)}].cancel()")

    def within(self, nesting: int) -> None:
        heads = (
            "async with lock:",
            "async with lock:",
            "async with semaphore:",
            f"async with asyncio.timeout({self.delay()}):",
        )
        self.write(self.random.choice(heads))
        self.nested(nesting)

    # -- threads

    def job(self) -> None:
        self.write(f"def job{self.jobs}():")
        self.depth += 1
        self.write("note(who())")
        # One of the two never waits: each wait multiplies the schedules.
        soon = "soon()" if self.jobs else "0"
        for _ in range(1 + self.number(2)):
            self.write(
                self.random.choice(
                    (
                        f"time.sleep({soon})",
                        "begun.set()",
                        f"note(f'{{begun.wait({soon})}}')",
                        f"here.value = {self.name()!r}",
                        f"note({self.name()!r})",
                        f"loop.call_soon_threadsafe({self.target()})",
                        f"loop.call_soon_threadsafe({self.target()})",
                        f"loop.call_soon_threadsafe(offer, {self.name()!r})",
                    )
                )
            )
        self.write("note(who())")
        self.depth -= 1
        self.jobs += 1

    def runs_job(self) -> None:
        self.jobs_left -= 1
        job = f"job{self.number(self.jobs)}"
        self.write(
            self.random.choice(
                (
                    f"await asyncio.to_thread({job})",
                    f"await asyncio.to_thread({job})",
                    f"tasks.append(loop.create_task(asyncio.to_thread({job})))",
                    f"in_thread({job})",
                    f"await loop.run_in_executor(None, {job})",
                )
            )
        )


def small_program(seed: str) -> str:
    """The source of a module with `async def program(world, log)`; the same for the same seed."""
    writer = SmallWriter(Random(seed))
    for _ in range(2):
        writer.job()
    for _ in range(2):
        writer.actor(2, nesting=1)
    for number in range(2):
        writer.write(f"tasks.append(loop.create_task(actor{number}(), name='actor {number}'))")
    return HEAD + "\n".join(writer.lines) + "\n" + TAIL
