"""Small random programs of a loop and one or two threads, as source text.

A thread holds what it knows in all places: locals, loops, generators, `with` and `except`, operands
of calls, thread locals, context variables. It waits for locks and events, with a limit and without.
"""

from __future__ import annotations

from random import Random

_HEAD = """\
import asyncio
import contextvars
import threading

from sim import World

variable = contextvars.ContextVar("variable", default=0)
local = threading.local()


async def program(world: World) -> None:
    loop = asyncio.get_running_loop()
    lock, event = threading.Lock(), threading.Event()
    shared, told = [0], []

    def add(number):
        with lock:
            shared[0] += number
            return shared[0]

    def seen():
        lock.acquire()
        try:
            return shared[0]
        finally:
            lock.release()

    def steps(number):
        for step in range(number):
            with lock:
                yield shared[0] + step

    class Within:
        def __init__(self, number):
            self.number = number + seen()

        def __enter__(self):
            return add(self.number)

        def __exit__(self, *_):
            told.append(add(1))
            return True

"""

_STEPS = (
    "x = add({n})",
    "x = x + {n} * seen()",
    "x = [x, {n}][seen() % 2] + add(1)",
    "for y in steps(2): x += y",
    "for y in [1, {n}]: x += y * seen()",
    "with Within({n}) as y: x += y",
    "with Within({n}) as y: raise ValueError(x)",
    "local.x = seen()",
    "x += getattr(local, 'x', 0)",
    "variable.set(add({n}))",
    "x += variable.get()",
    "event.set()",
    "told.append((x, event.wait(0.{n})))",
    "told.append(x)",
    "loop.call_soon_threadsafe(told.append, x)",
)


def random_threads(seed: object) -> str:
    random = Random(f"threads {seed}")
    lines = [_HEAD]
    threads = random.choice((1, 1, 2))
    for number in range(threads):
        lines.append(f"    def thread{number}():\n        x = {number}\n")
        for _ in range(random.randint(1, 3 if threads == 1 else 1)):
            lines.append(f"        {random.choice(_STEPS).format(n=random.randint(1, 3))}\n")
        lines.append("        return x\n\n")
    jobs = ", ".join(f"asyncio.to_thread(thread{number})" for number in range(threads))
    lines.append(f"    jobs = asyncio.gather({jobs})\n")
    for _ in range(random.randint(0, 2)):
        name = random.choice("ab")
        step = random.choice(("shared[0] *= 2", "event.set()", "told.append(shared[0])"))
        lines.append(f'    await world.outside("{name}", latest=0.0)\n    {step}\n')
    lines.append("    results = await jobs\n")
    lines.append('    world.reached(f"{results}, {shared}, {told}")\n')
    return "".join(lines)
