"""Small random programs with more of asyncio: what the others leave out, a few statements of each.

Conditions, barriers, timeouts that are moved, waits for tasks, cancels by callbacks and of oneself,
uncancel, generators, queues between threads and the loop, coroutines that a thread runs in the
loop, eager tasks (3.12) and queues that are shut down (3.13). Notes and clocks are as in
`small_programs`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random

from tests.sim.small_programs import HEAD, TAIL, SmallWriter

_MORE = """\
    condition, barrier, inbox = asyncio.Condition(), asyncio.Barrier(2), queues.SimpleQueue()

    async def ticks():
        try:
            for tick in range(2):
                yield tick
                await asyncio.sleep(soon())
        finally:
            note("no more ticks")

    def tried(call, *args):
        try:
            note(f"{call(*args)!r}")
        except BaseException as exc:
            note(type(exc).__name__)

    async def answers(text):
        await asyncio.sleep(0)
        note(text)
        return text

    def in_loop(text, wait_s):
        running = asyncio.run_coroutine_threadsafe(answers(text), loop)
        try:
            note(running.result(wait_s))
        except BaseException as exc:
            note(f"{type(exc).__name__}, {running.cancel()}")

"""


class WideWriter(SmallWriter):
    """Few actors of few statements, of more kinds."""

    def flat(self) -> list[Callable[[], None]]:
        return [*super().flat(), self.waits_more, self.waits_more, self.acts_more, self.acts_more]

    def waits_more(self) -> None:
        i = self.number(2)
        self.write(
            self.random.choice(
                (
                    "note(await barrier.wait())",
                    f"await asyncio.wait_for(queue.get(), {self.delay()})",
                    f"await asyncio.wait_for(event.wait(), {self.delay()})",
                    f"await asyncio.shield(tasks[{i}])",
                    f"await asyncio.wait(tasks[:{1 + i}], timeout={self.delay()})",
                    "await asyncio.wait([*tasks, future], return_when=asyncio.FIRST_COMPLETED)",
                    "await semaphore.acquire()",
                    "await queue.join()",
                    f"note(repr(await asyncio.gather(answers({self.name()!r}), answers('x'))))",
                    "await asyncio.gather(answers('y'), future, return_exceptions=True)",
                    "await asyncio.wait_for(asyncio.to_thread(tried, time.sleep, 0), soon())",
                    "await asyncio.to_thread(tried, inbox.get, True, soon())",
                )
            )
        )

    def acts_more(self) -> None:
        i = self.number(2)
        acts = [
            f"tasks[{i}].add_done_callback(lambda _: {self.called()})",
            "future.add_done_callback(lambda _: note('the future is done'))",
            f"asyncio.current_task().cancel({self.name()!r})",
            "note(asyncio.current_task().uncancel())",
            f"note(tasks[{i}].cancelling())",
            f"inbox.put({self.name()!r})",
            "semaphore.release()",
            "queue.empty() or (queue.get_nowait(), queue.task_done())",
            f"tasks.append(loop.create_task(answers({self.name()!r})))",
            f"asyncio.ensure_future(answers({self.name()!r}), loop=loop)",
            "future.cancel('of an actor')",
        ]
        if sys.version_info >= (3, 12):
            acts.append(f"asyncio.Task(answers({self.name()!r}), loop=loop, eager_start=True)")
        if sys.version_info >= (3, 13):
            acts.append(f"queue.shutdown({bool(i)})")
        self.write(self.random.choice(acts))

    def called(self) -> str:
        """A target as a call."""
        function, _, args = self.target().partition(", ")
        return f"{function}({args})"

    def within(self, nesting: int) -> None:
        kind = self.number(5)
        if kind > 2:
            super().within(nesting)
        elif kind == 0:
            self.write("async with condition:")
            self.depth += 1
            calls = (
                "await condition.wait()",
                "condition.notify()",
                "condition.notify_all()",
                "await condition.wait_for(event.is_set)",
            )
            self.write(self.random.choice(calls))
            self.block(1, 0)
            self.depth -= 1
        elif kind == 1:
            self.write(f"async with asyncio.timeout({self.delay()}) as limit:")
            self.depth += 1
            self.write(f"limit.reschedule({self.random.choice(('loop.time() + soon()', 'None'))})")
            self.block(1, 0)
            self.depth -= 1
        else:
            self.write("async for tick in ticks():")
            self.nested(0)
            if self.number(2):
                self.write("    break")

    def job(self) -> None:
        """As the others', or one that waits for the loop or for the inbox."""
        if self.number(2):
            super().job()
            return
        self.write(f"def job{self.jobs}():")
        self.depth += 1
        for _ in range(1 + self.number(2)):
            self.write(
                self.random.choice(
                    (
                        "tried(inbox.get, True, soon())",
                        f"inbox.put({self.name()!r})",
                        f"in_loop({self.name()!r}, None)",
                        f"in_loop({self.name()!r}, soon())",
                        f"loop.call_soon_threadsafe({self.target()})",
                        "note(who())",
                    )
                )
            )
        self.depth -= 1
        self.jobs += 1


def wide_program(seed: str) -> str:
    """The source of a module with `async def program(world, log)`; the same for the same seed."""
    writer = WideWriter(Random(seed))
    for _ in range(2):
        writer.job()
    for _ in range(2):
        writer.actor(2, nesting=1)
    for number in range(2):
        writer.write(f"tasks.append(loop.create_task(actor{number}(), name='actor {number}'))")
    head = HEAD.replace("import time", "import queue as queues\nimport time")
    return head + _MORE + "\n".join(writer.lines) + "\n" + TAIL
