"""Small random asyncio programs, as source text: all of asyncio that needs no I/O.

They are not correct, and not meant to be: they deadlock, leave tasks behind, swallow cancels and
raise. What matters is that the simulator and the stock loop agree on what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_HEAD = """\
import asyncio
import contextlib
import contextvars

from sim import World

whose = contextvars.ContextVar("whose", default="nobody")


async def program(world: World) -> None:
    loop = asyncio.get_running_loop()
    locks = [asyncio.Lock() for _ in range(2)]
    semaphore = asyncio.Semaphore(2)
    events = [asyncio.Event() for _ in range(2)]
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    condition = asyncio.Condition()
    barrier = asyncio.Barrier(2)
    futures = [loop.create_future() for _ in range(3)]
    tasks: list[asyncio.Task[object]] = []
    count = 0

    def note(text: str) -> None:
        nonlocal count
        count += 1
        world.record(f"{text} ({whose.get()}, {count})")

    async def ticks(number: int, delay: float):
        try:
            for tick in range(number):
                await asyncio.sleep(delay)
                yield tick
        finally:
            note("no more ticks")

"""

_TAIL = """
    for task in tasks:
        task.add_done_callback(lambda task: note(f"{task.get_name()} is done"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    world.record(f"{results!r}, {count}, {queue.qsize()}, {[lock.locked() for lock in locks]}")
    world.check(count < {count_max}, "few steps are taken", f"{{count}}")
"""

_DELAYS = ("0", "0", "0", "0.001", "0.004", "0.1", "0.1", "0.105")


class Writer:
    """Writes actors of random statements; who derives from it has other ones."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.depth = 1
        self.serial = 0
        self.actors = 0

    def write(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def name(self) -> str:
        self.serial += 1
        return f"s{self.serial}"

    def delay(self) -> str:
        return self.random.choice(_DELAYS)

    def number(self, below: int) -> int:
        return self.random.randrange(below)

    # -- actors and blocks

    def actor(self, statements_max: int = 4, nesting: int = 2) -> None:
        """A coroutine function; it may run those before it as children."""
        self.write(f"async def actor{self.actors}() -> None:")
        self.depth += 1
        self.write(f"whose.set('actor {self.actors}')")
        self.block(statements_max, nesting)
        self.depth -= 1
        self.actors += 1

    def block(self, statements_max: int, nesting: int) -> None:
        for _ in range(1 + self.number(statements_max)):
            deep = [self.within, self.children, self.caught]
            if nesting and self.number(2):
                self.random.choice(deep)(nesting - 1)
            else:
                self.random.choice(self.flat())()
            self.write(f"note({self.name()!r})")

    def flat(self) -> list[Callable[[], None]]:
        """The statements without a block of their own."""
        return [self.wait, self.outside, self.act, self.cancel]

    def nested(self, nesting: int) -> None:
        self.depth += 1
        self.block(2, nesting)
        self.depth -= 1

    # -- statements

    def wait(self) -> None:
        i = self.number(2)
        self.write(
            self.random.choice(
                (
                    f"await asyncio.sleep({self.delay()})",
                    f"await asyncio.sleep({self.delay()})",
                    f"await events[{i}].wait()",
                    "note(await queue.get())",
                    f"await queue.put({self.number(9)})",
                    f"await asyncio.wait(set(futures), timeout={self.delay()}, "
                    f"return_when=asyncio.FIRST_COMPLETED)",
                    f"await asyncio.wait(set(tasks), timeout={self.delay()}, "
                    f"return_when=asyncio.FIRST_COMPLETED)",
                    f"await asyncio.shield(futures[{i}])",
                    "await barrier.wait()",
                )
            )
        )

    def outside(self) -> None:
        earliest = self.random.choice(("0.0", "0.0", "0.0", "0.05", "0.1"))
        latest = self.random.choice(("None", "0.1", "0.1", "0.3"))
        name = self.name()
        self.write(f"await world.outside('{name} comes', earliest={earliest}, latest={latest})")

    def act(self) -> None:
        i = self.number(2)
        self.write(
            self.random.choice(
                (
                    f"events[{i}].set()",
                    f"events[{i}].clear()",
                    f"futures[{i}].done() or futures[{i}].set_result({i})",
                    "world.choose('mood', ('calm', 'busy')) == 'busy' and events[0].set()",
                    f"loop.call_soon(note, {self.name()!r})",
                    f"loop.call_soon_threadsafe(events[{i}].set)",
                    f"loop.call_later({self.delay()}, note, {self.name()!r})",
                    f"loop.call_later({self.delay()}, events[{i}].set)",
                    f"world.reached({self.name()!r})",
                    f"world.shared('board').{self.random.choice(('read', 'write'))}()",
                    "raise ValueError(whose.get())",
                    "world.check(count % 7, 'seven steps are never taken')",
                )
            )
        )

    def cancel(self) -> None:
        self.write(f"tasks and tasks[{self.number(4)} % len(tasks)].cancel()")

    def within(self, nesting: int) -> None:
        """A block with something entered around it."""
        i = self.number(2)
        heads = (
            f"async with locks[{i}]:",
            f"async with locks[{i}]:",
            "async with semaphore:",
            f"async with asyncio.timeout({self.delay()}):",
            f"async for _ in ticks(3, {self.delay()}):",
            f"for _ in range({1 + self.number(3)}):",
            "async with condition:",
        )
        head = self.random.choice(heads)
        self.write(head)
        self.depth += 1
        if "condition" in head:
            calls = ("await condition.wait()", "condition.notify(1)", "condition.notify_all()")
            self.write(self.random.choice(calls))
        self.block(2, nesting)
        if "ticks" in head and self.number(2):
            self.write("break")
        self.depth -= 1

    def children(self, nesting: int) -> None:
        if not self.actors:
            self.wait()
            return
        one, other = (f"actor{self.number(self.actors)}()" for _ in range(2))
        kind = self.number(4)
        if kind == 0:
            self.write("async with asyncio.TaskGroup() as group:")
            self.depth += 1
            self.write(f"group.create_task({one})")
            self.write(f"group.create_task({other}, name={self.name()!r})")
            self.block(1, 0)
            self.depth -= 1
        elif kind == 1:
            self.write(f"await asyncio.gather({one}, {other})")
        elif kind == 2:
            self.write(f"await asyncio.wait_for({one}, {self.delay()})")
        else:
            self.write(f"tasks.append(asyncio.create_task({one}))")

    def caught(self, nesting: int) -> None:
        self.write("try:")
        self.nested(nesting)
        kind = self.number(4)
        if kind == 0:
            self.write("finally:")
            self.nested(0)
        elif kind == 1:
            self.write("except asyncio.CancelledError:")
            self.nested(0)
        elif kind == 2:
            self.write("except* (TimeoutError, ValueError) as caught:")
            self.depth += 1
            self.write("note(f'{caught!r}')")
            self.depth -= 1
        else:
            self.write("except (TimeoutError, ValueError) as caught:")
            self.depth += 1
            self.write("note(f'{caught!r}')")
            self.depth -= 1


def random_program(seed: str) -> str:
    """The source of a module with `async def program(world)`; the same for the same seed."""
    writer = Writer(Random(seed))
    for _ in range(2 + writer.number(4)):
        writer.actor()
    for _ in range(3 + writer.number(3)):
        # All at the beginning, so that a cancel finds them at any time.
        writer.write(f"tasks.append(asyncio.create_task(actor{writer.number(writer.actors)}()))")
    if writer.number(3):
        # So that not too many of them end in a deadlock.
        writer.write("for number, event in enumerate(events):")
        writer.write("    loop.call_later(0.12, event.set)")
        writer.write("    futures[number].add_done_callback(lambda _: queue.empty())")
        writer.write("loop.call_later(0.13, futures[1].cancel)")
        writer.write("loop.call_later(0.14, futures[0].cancel)")
    count_max = writer.random.choice((20, 1000, 1000))
    tail = _TAIL.replace("{count_max}", str(count_max)).replace("{{", "{").replace("}}", "}")
    return _HEAD + "\n".join(writer.lines) + "\n" + tail
