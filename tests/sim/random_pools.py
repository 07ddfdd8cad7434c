"""Small random programs whose jobs run in a pool of threads, as source.

They ask futures for their results and states, one at a time and all together, cancel jobs, and shut
the pool down; the jobs come from the loop, from a thread, or from each other. Each says what it
sees in a list that all share, unlocked.
"""

from __future__ import annotations

from random import Random

_HEAD = """\
import asyncio
import concurrent.futures
import contextlib
import threading

from sim import World


async def program(world: World) -> None:
    told, futures = [], []

    def say(what):
        told.append(str(what))
        world.reached(" ".join(told))

    def job(name):
        say(name)
        return name

    def job_that_begins_another(name):
        with contextlib.suppress(RuntimeError):
            futures.append(pool.submit(job, name + "+"))
        say(name)
        return name

    def job_that_fails(name):
        say(name)
        raise KeyError(name)

"""

_ASKS = (
    *("say(futures[-1].result())", "say(futures[0].exception())", "say(futures[-1].done())"),
    *("say(futures[0].cancel())", "say(futures[-1].running())"),
    "futures[-1].add_done_callback(lambda _: say('over'))",
    "say([f.cancelled() or f.exception() or f.result() for f in as_completed(futures[:2])])",
    "say(len(concurrent.futures.wait(futures[:2]).done))",
    "say(len(concurrent.futures.wait(futures[:2], return_when='FIRST_COMPLETED').done))",
    "pool.shutdown(wait=False, cancel_futures=True)",
    "pool.shutdown(cancel_futures=True)",
    "pool.shutdown()",
)


def random_pools(seed: object) -> str:
    random = Random(f"pools {seed}")
    begins = random.choice(("", "", ", initializer=lambda: say('begins')"))
    threads = random.choice((1, 2))
    lines = [_HEAD, "    as_completed = concurrent.futures.as_completed\n"]
    lines.append(f"    pool = concurrent.futures.ThreadPoolExecutor({threads}{begins})\n")
    jobs = random.choice((1, 1, 2))
    for name in "ab"[:jobs]:
        job = random.choice(("job", "job", "job_that_begins_another", "job_that_fails"))
        lines.append(f"    futures.append(pool.submit({job}, '{name}'))\n")
    asks = [random.choice(_ASKS) for _ in range(random.choice((1, 1, 1, 2)))]
    if random.random() < 0.4:
        lines.append("\n    def other():\n")
        lines += _suppressed(asks.pop(), "        ")
        lines.append("\n    thread = threading.Thread(target=other)\n    thread.start()\n")
        asks.append("thread.join()")
    elif random.random() < 0.4:
        lines.append("    by_loop = asyncio.get_running_loop().run_in_executor(pool, job, 'c')\n")
        lines += _suppressed(asks.pop(), "    ")
        asks.append("say(await by_loop)")
    for ask in asks:
        lines += _suppressed(ask, "    ")
    lines.append("    say('end')\n")
    return "".join(lines)


def _suppressed(ask: str, indent: str) -> list[str]:
    """What a job has raised, a cancel, and that the pool is shut down."""
    errors = "KeyError, RuntimeError, concurrent.futures.CancelledError, asyncio.CancelledError"
    return [f"{indent}with contextlib.suppress({errors}):\n", f"{indent}    {ask}\n"]
