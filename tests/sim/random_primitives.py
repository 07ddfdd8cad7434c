"""Small random programs of two threads and a loop that use what Python makes of locks, as source.

They wait, with a limit and without, tell each other, and look without a lock at what can be seen
so: each says what it sees in a list that all share, unlocked. Some of them block for ever.
"""

from __future__ import annotations

from random import Random

_HEAD = """\
import concurrent.futures
import contextlib
import queue
import threading
import time

from sim import World


async def program(world: World) -> None:
    told, box = [], []

    def say(what):
        told.append(str(what))
        world.reached(" ".join(told))

"""

# By kind: what is made, and what can be done with it; the first few wait.
_KINDS = {
    "queue": (
        ("q = queue.Queue(1)", "q = queue.Queue()", "q = queue.LifoQueue(1)"),
        (
            *("say(q.get())", "q.put({n})", "say(q.get(timeout=0.1))", "q.join()"),
            *("say(q.qsize())", "time.sleep(0.1)", "q.task_done()", "q.put_nowait({n})"),
            *("say(q.get_nowait())", "say(q.full())"),
        ),
    ),
    "compared": (
        ("q = queue.PriorityQueue()",),
        ("say(q.get())", "q.put(Number({n}))", "say(q.qsize())", "say(told[-1:])"),
    ),
    "simple queue": (
        ("q = queue.SimpleQueue()",),
        ("say(q.get())", "say(q.get(timeout=0.1))", "q.put({n})", "say(q.qsize())"),
    ),
    "event": (
        ("e = threading.Event()",),
        (
            "e.wait()",
            "say(e.wait(0.1))",
            "e.set()",
            "say(e.is_set())",
            "e.clear()",
            "time.sleep(0.1)",
        ),
    ),
    "semaphore": (
        ("s = threading.Semaphore({n} - 1)", "s = threading.BoundedSemaphore({n})"),
        (
            *("s.acquire()", "say(s.acquire(timeout=0.1))", "s.release()"),
            *("say(s.acquire(blocking=False))", "s.release(2)", "time.sleep(0.1)"),
        ),
    ),
    "condition": (
        ("c = threading.Condition()", "c = threading.Condition(threading.Lock())"),
        (
            "with c:\n            while not box: c.wait()\n            say(box.pop())",
            "with c:\n            say(c.wait(0.1))",
            "with c:\n            say(c.wait_for(lambda: box))",
            "with c:\n            box.append({n})\n            c.notify()",
            "with c:\n            box.append({n})\n            c.notify_all()\n            say(9)",
            "say(is_free(c))",
            "time.sleep(0.1)",
            "say(box)",
        ),
    ),
    "barrier": (
        ("b = threading.Barrier(2)", "b = threading.Barrier(2, action=lambda: say('all'))"),
        ("say(b.wait())", "say(b.wait(0.1))", "say(b.n_waiting)", "say(b.broken)", "b.abort()"),
    ),
    "future": (
        ("f, g = concurrent.futures.Future(), concurrent.futures.Future()",),
        (
            *("say(f.result())", "say(f.exception(timeout=0.1))", "f.set_result({n})"),
            *("f.set_exception(KeyError({n}))", "say(f.done())", "say(f.cancel())"),
            *("say(f._state)", "f.add_done_callback(lambda _: say('over'))", "g.set_result({n})"),
            "say([each is f for each in concurrent.futures.as_completed([f, g])])",
            "say(len(concurrent.futures.wait([f, g], 0.1, 'FIRST_COMPLETED').done))",
            "say(len(concurrent.futures.wait([f, g]).done))",
        ),
    ),
}

_HELPERS = """\
    class Number:
        def __init__(self, number):
            self.number = number

        def __lt__(self, other):
            say(f"{self.number}<{other.number}")
            return self.number < other.number

        def __str__(self):
            return str(self.number)

    def is_free(lock):
        got = lock.acquire(blocking=False)
        if got:
            lock.release()
        return got

"""


def random_primitives(seed: object) -> str:
    random = Random(f"primitives {seed}")
    makes, steps = _KINDS[random.choice(sorted(_KINDS))]
    lines = [_HEAD, _HELPERS, f"    {_filled(random.choice(makes), random)}\n"]
    for name in "ab":
        lines.append(f"\n    def {name}():\n        say('{name}')\n")
        for number in range(random.randint(1, 2)):
            step = _filled(random.choice(steps), random)
            lines.append(f"        {step}\n        say('{name}{number}')\n")
    lines.append("\n    threads = [threading.Thread(target=each) for each in (a, b)]\n")
    lines.append("    for each in threads:\n        each.start()\n")
    if random.random() < 0.5:
        lines.append("    with contextlib.suppress(queue.Empty, queue.Full, ValueError):\n")
        lines.append(f"        {_filled(random.choice(steps[3:]), random)}\n")
    lines.append("    for each in threads:\n        each.join()\n    say('end')\n")
    return "".join(lines)


def _filled(text: str, random: Random) -> str:
    return text.replace("{n}", str(random.randint(1, 2)))
