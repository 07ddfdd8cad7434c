"""To `threading` a simulated worker is a thread of its own, as on stock Python."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import functools
import gc
import itertools
import logging
import re
import signal
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.thread import BrokenThreadPool
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock, get_ident, local
from typing import Any

import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from sim import World, explore, run
from sim.kernel.execution import run_execution
from sim.kernel.guards import guarded
from sim.kernel.schedule import Bounds
from sim.kernel.threads.local_values import SimLocal
from sim.schedulers import DepartureBounded, NaturalOrder

Program = Callable[[], Awaitable[object]]
EXECUTIONS_MAX = 10_000


def on_stock(program: Program) -> object:
    """What it returns on asyncio's own loop, with threads of the system."""
    _count_names_from_the_start()

    async def main() -> object:
        return await program()

    with asyncio.Runner() as runner:
        return runner.run(main())


def simulated(program: Program, departures: int = 1) -> list[object]:
    """What it returns under every schedule with up to `departures` of them, each once."""
    seen: list[object] = []

    async def main(_: World) -> None:
        result = await program()
        if result not in seen:
            seen.append(result)

    strategy = DepartureBounded(departures)
    # Not the random executions besides, whose orders are others than those of the search.
    report = explore(main, strategy=strategy, max_executions=EXECUTIONS_MAX, thread_lines=False)
    assert report.verdict == "proved", report.text
    return seen


def _count_names_from_the_start() -> None:
    threads: Any = threading
    threads._counter = itertools.count(1).__next__
    pools: Any = ThreadPoolExecutor
    pools._counter = itertools.count().__next__


# ---- who a thread is ------------------------------------------------------------------------


async def a_worker_is_not_the_main_thread() -> object:
    def look() -> object:
        me = threading.current_thread()
        return (
            me is threading.main_thread(),
            me is threading.current_thread(),
            me in threading.enumerate(),
            me.ident == threading.get_ident() == _thread.get_ident() == get_ident(),
            me.native_id == threading.get_native_id() == _thread.get_native_id(),
            me.ident == threading.main_thread().ident,
            me.is_alive(),
            me.daemon,
        )

    loops = threading.current_thread() is threading.main_thread()
    return loops, await asyncio.to_thread(look), threading.get_ident() == get_ident()


async def names_are_those_of_stock() -> object:
    def name() -> str:
        return threading.current_thread().name

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1, "mine") as named:
        seen = [await asyncio.to_thread(name)]
        seen += [await loop.run_in_executor(each, name) for each in (pool, named, pool)]
    made = [threading.Thread(), threading.Thread(target=name), threading.Timer(1, name)]
    return [*seen, *(each.name for each in made)]


async def a_pools_thread_keeps_its_identity() -> object:
    loop = asyncio.get_running_loop()
    keeps = local()
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def count() -> tuple[int, int, str]:
        keeps.count = getattr(keeps, "count", 0) + 1
        variable.set(variable.get() + 1)
        return keeps.count, variable.get(), threading.current_thread().name

    before = threading.active_count()
    with ThreadPoolExecutor(1) as pool:
        # The function itself, as it is before the first thread.
        idents = [await loop.run_in_executor(pool, get_ident) for _ in range(2)]
        counts = [await loop.run_in_executor(pool, count) for _ in range(3)]
        alive = threading.active_count() - before
    return counts, alive, threading.active_count() - before, idents[0] == idents[1]


async def a_lock_is_kept_from_job_to_job() -> object:
    loop, lock = asyncio.get_running_loop(), threading.RLock()
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as other:
        await loop.run_in_executor(pool, lock.acquire)
        free = lock.acquire(blocking=False)
        others = await loop.run_in_executor(other, lambda: lock.acquire(blocking=False))
        again = await loop.run_in_executor(pool, lambda: lock.acquire(blocking=False))
    return free, others, again


# ---- threading.local ------------------------------------------------------------------------

BEFORE = threading.local()


class Counted(threading.local):
    """Tells how often it was initialised, and with what."""

    made = 0
    fails = False

    def __init__(self, first: int, *, second: int = 0) -> None:
        if type(self).fails:
            raise LookupError("not now")
        type(self).made += 1
        self.value = first + second


class Slotted(threading.local):
    __slots__ = ("shared",)
    default = 7


COUNTED_BEFORE = Counted(1, second=2)


async def values_are_of_one_thread() -> object:
    own = threading.local()
    BEFORE.value = own.value = "the loop's"

    def look() -> object:
        seen = hasattr(BEFORE, "value"), hasattr(own, "value"), dict(BEFORE.__dict__)
        BEFORE.value = own.value = "a worker's"
        return seen

    seen = await asyncio.to_thread(look)
    after = BEFORE.value, own.value
    del BEFORE.value
    return seen, after


async def a_local_with_init_is_made_in_each_thread() -> object:
    """Module-level instances, those made within, and those of classes made within."""
    Counted.made = 0
    within = Counted(10)

    class Inner(threading.local):
        def __init__(self, value: int = 3) -> None:
            self.value = value

    inner = Inner(4)
    made_alone = Counted.made

    def look() -> object:
        seen = COUNTED_BEFORE.value, within.value, inner.value
        COUNTED_BEFORE.value = within.value = inner.value = 0
        return seen, (COUNTED_BEFORE.value, within.value, inner.value)

    with ThreadPoolExecutor(1) as pool:
        loop = asyncio.get_running_loop()
        # Nobody meets them in a thread that does not use them.
        await loop.run_in_executor(pool, int)
        unmet = Counted.made - made_alone
        first = await loop.run_in_executor(pool, look)
        kept = await loop.run_in_executor(pool, lambda: (COUNTED_BEFORE.value, within.value))
    loops = COUNTED_BEFORE.value, within.value, inner.value
    return made_alone, unmet, first, kept, loops, Counted.made


async def an_init_that_fails_is_tried_anew() -> object:
    def look() -> object:
        Counted.fails = True
        try:
            return COUNTED_BEFORE.value
        except LookupError as exc:
            told = str(exc)
        finally:
            Counted.fails = False
        return told, COUNTED_BEFORE.value

    return await asyncio.to_thread(look)


async def a_local_made_in_a_worker_is_met_by_the_loop() -> object:
    made = await asyncio.to_thread(lambda: Counted(5))
    plain = await asyncio.to_thread(threading.local)
    plain.value = 1
    return made.value, await asyncio.to_thread(lambda: hasattr(plain, "value"))


async def slots_are_shared_and_defaults_are_the_classes() -> object:
    slotted = Slotted()
    slotted.shared = 1
    slotted.own = 2

    def look() -> object:
        seen = slotted.shared, slotted.default, hasattr(slotted, "own")
        slotted.shared = 3
        return seen

    return await asyncio.to_thread(look), slotted.shared, isinstance(slotted, local)


async def errors_of_a_local_are_those_of_stock() -> object:
    def error_of(act: Callable[[], object]) -> str:
        try:
            act()
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}".replace("SimLocal", "_local")
        return "none"

    made_of: Any = threading.local

    def look() -> object:
        return [
            error_of(lambda: made_of(1)),
            error_of(lambda: BEFORE.no_such_name),
            error_of(lambda: setattr(BEFORE, "__dict__", {})),
            error_of(lambda: delattr(BEFORE, "no_such_name")),
        ]

    return await asyncio.to_thread(look)


# ---- threads of the program's own -----------------------------------------------------------


async def a_thread_lives_and_ends() -> object:
    seen: list[object] = []
    thread = threading.Thread(target=seen.append, args=("ran",), name="mine")
    before = thread.is_alive(), thread.ident, repr(thread)
    thread.start()
    thread.join()
    after = thread.is_alive(), repr(thread).replace(str(thread.ident), "IDENT")
    known = thread.ident is not None, thread.native_id is not None, thread in threading.enumerate()
    thread.join()
    return before, seen, after, known


async def a_thread_that_runs_is_alive() -> object:
    goes_on, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        goes_on.wait()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    begun.wait()
    thread.join(timeout=0)
    thread.join(timeout=0.01)
    seen = thread.is_alive(), thread in threading.enumerate(), thread.daemon
    told = repr(thread).replace(str(thread.ident), "IDENT")
    goes_on.set()
    thread.join()
    return seen, told, thread.is_alive()


async def misuse_raises_what_stock_raises() -> object:
    def error_of(act: Callable[[], object]) -> str:
        try:
            act()
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"
        return "none"

    class Uninitialised(threading.Thread):
        def __init__(self) -> None:
            pass

    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(error_of(thread.join)))
    early = error_of(thread.join)
    thread.start()
    again = error_of(thread.start)
    thread.join()
    late = error_of(thread.start), error_of(lambda: setattr(thread, "daemon", True))
    return early, told, again, late, error_of(Uninitialised().start)


async def subclasses_and_timers_run() -> object:
    seen: list[object] = []

    class Mine(threading.Thread):
        def run(self) -> None:
            seen.append(threading.current_thread() is self)
            inner = threading.Thread(target=lambda: seen.append("a thread of a thread"))
            inner.start()
            inner.join()

    mine = Mine()
    mine.start()
    mine.join()
    timer, cancelled = (threading.Timer(0.01, seen.append, ["timer"]) for _ in range(2))
    timer.start()
    cancelled.start()
    cancelled.cancel()
    timer.join()
    cancelled.join()
    return seen


async def an_exception_goes_to_the_excepthook() -> object:
    seen: list[object] = []
    before = threading.excepthook
    threading.excepthook = lambda args: seen.append(
        (args.exc_type, str(args.exc_value), args.thread is thread)
    )

    def fail() -> None:
        raise LookupError("of the thread")

    def leave() -> None:
        raise SystemExit(3)

    try:
        for target in (fail, leave):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    finally:
        threading.excepthook = before
    return seen


async def a_thread_and_the_loop_exclude_each_other() -> object:
    lock, bound, seen = threading.Lock(), Lock(), []

    def work() -> None:
        with lock, bound:
            seen.append("thread")

    with lock, bound:
        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.sleep(0)
        seen.append("loop")
    thread.join()
    return seen


async def a_thread_calls_the_loop() -> object:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(done.set,))
    thread.start()
    await done.wait()
    thread.join()

    async def answer() -> int:
        await asyncio.sleep(0.001)
        return 42

    def ask() -> int:
        return asyncio.run_coroutine_threadsafe(answer(), loop).result()

    return await asyncio.to_thread(ask)


# ---- anyio, and loops within threads ----------------------------------------------------------


async def anyio_works_in_threads() -> object:
    async def answer(value: int) -> int:
        await anyio.sleep(0.001)
        return value

    def work() -> object:
        return (
            anyio.from_thread.run(answer, 1),
            anyio.from_thread.run_sync(threading.current_thread) is threading.main_thread(),
            threading.current_thread().name,
        )

    return await anyio.to_thread.run_sync(work)


async def a_loop_within_a_thread() -> object:
    async def inner(seconds: float) -> object:
        await asyncio.sleep(seconds)
        async with asyncio.timeout(5):
            nested = await asyncio.to_thread(threading.current_thread)
        return asyncio.current_task() is not None, nested.name

    outer = asyncio.current_task()
    seen = [await asyncio.to_thread(asyncio.run, inner(each)) for each in (0, 0.01)]
    return seen, asyncio.current_task() is outer


async def a_loop_that_others_call() -> object:
    """What anyio's blocking portal does, and with it starlette's TestClient."""
    with anyio.from_thread.start_blocking_portal() as portal:
        first = portal.call(lambda: threading.current_thread() is threading.main_thread())
        second = portal.start_task_soon(anyio.sleep, 0.001).result()
    return first, second


# ---- pools --------------------------------------------------------------------------------------


async def a_pools_threads_are_initialised() -> object:
    loop, seen = asyncio.get_running_loop(), []
    keeps = local()

    def begin(*given: int) -> None:
        keeps.given = given
        seen.append(threading.current_thread().name)

    with ThreadPoolExecutor(1, "mine", begin, (1, 2)) as pool:
        given = [await loop.run_in_executor(pool, lambda: keeps.given) for _ in range(2)]
    return seen, given


async def an_initialiser_that_fails_breaks_its_pool() -> object:
    def fail() -> None:
        raise LookupError("not today")

    loop, told = asyncio.get_running_loop(), []
    logger = logging.getLogger("concurrent.futures")
    logger.addFilter(lambda record: told.append(record.getMessage()))
    try:
        with ThreadPoolExecutor(1, initializer=fail) as pool:
            for _ in range(2):
                try:
                    await loop.run_in_executor(pool, int)
                except BrokenThreadPool as exc:
                    told.append(str(exc))
    finally:
        logger.filters.clear()
    return told


class InPlace(Executor):
    """An executor of the program's own, which does its jobs at once, where they are submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


async def an_executor_of_the_programs_own() -> object:
    loop = asyncio.get_running_loop()
    name = await loop.run_in_executor(InPlace(), lambda: threading.current_thread().name)
    failed = await asyncio.gather(
        loop.run_in_executor(InPlace(), int, "no number"), return_exceptions=True
    )
    return name, str(failed)


async def asgiref_calls_back_and_forth() -> object:
    """Into the thread of who called async_to_sync, and out of it again."""
    seen: list[str] = []

    def work() -> None:
        seen.append(threading.current_thread().name)

    async def inner() -> None:
        seen.append(threading.current_thread().name)
        await sync_to_async(work)()
        await sync_to_async(work, thread_sensitive=False)()

    async with ThreadSensitiveContext():
        await sync_to_async(lambda: async_to_sync(inner)())()
    return len(seen), seen[0] == seen[1], seen[2] == seen[0]


# ---- sqlite3 ----------------------------------------------------------------------------------


@contextmanager
def a_database() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/database"
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("create table t (n integer)")
        yield file


async def connections_wait_for_each_other() -> object:
    with a_database() as file:

        def work(number: int) -> None:
            with closing(sqlite3.connect(file)) as db, db:
                db.execute("insert into t values (?)", [number])
                time.sleep(0.01)

        await asyncio.gather(*(asyncio.to_thread(work, each) for each in range(3)))
        with closing(sqlite3.connect(file)) as db:
            return sorted(db.execute("select n from t")), isinstance(db, sqlite3.Connection)


async def a_connection_may_not_want_to_wait() -> object:
    with a_database() as file, closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("begin immediate")

        def work() -> object:
            told = []
            for timeout in (0, 0.005):
                with closing(sqlite3.connect(file, timeout=timeout)) as other:
                    try:
                        other.cursor().execute("insert into t values (1)")
                    except sqlite3.OperationalError as exc:
                        told.append(str(exc))
            return told

        return await asyncio.to_thread(work)


async def who_reads_and_wants_to_write_is_not_let_wait() -> object:
    """Where another writes already, which waits for the readers: SQLite is busy at once."""
    with a_database() as file:
        has_read, has_written, has_tried = (threading.Event() for _ in range(3))
        told: list[object] = []

        def reads_and_writes() -> None:
            with closing(sqlite3.connect(file, isolation_level=None)) as db:
                db.execute("begin")
                # Of no database.
                db.execute("select ?", [1])
                db.execute("select n from t").fetchall()
                has_read.set()
                has_written.wait()
                try:
                    db.execute("insert into t values (1)")
                except sqlite3.OperationalError as exc:
                    told.append(str(exc))
                db.execute("rollback")
                has_tried.set()

        def writes() -> None:
            has_read.wait()
            with closing(sqlite3.connect(file)) as db:
                db.execute("insert into t values (?)", [2])
                has_written.set()
                # Waits for the reader.
                db.commit()

        begun = asyncio.get_running_loop().time()
        await asyncio.gather(asyncio.to_thread(reads_and_writes), asyncio.to_thread(writes))
        told.append(asyncio.get_running_loop().time() - begun < 1)
        with closing(sqlite3.connect(file)) as db:
            return told, db.execute("select n from t").fetchall()


async def a_transaction_that_has_not_read_waits() -> object:
    """Begun, and with what no database is needed for, it has nothing that others wait for."""
    with a_database() as file, closing(sqlite3.connect(file)) as db:
        db.execute("insert into t values (1)")

        def work() -> None:
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("begin")
                other.execute("select 1").fetchall()
                other.execute("create temp table own (n)")
                loop.call_soon_threadsafe(db.commit)
                other.execute("insert into t values (2)")
                other.execute("commit")

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(work)
        return db.execute("select n from t").fetchall()


async def what_waits_repeats_nothing() -> object:
    """Of a script or of many rows, what was executed before stays executed once."""
    script = """
        insert into own values (';'), (2); -- not the end;
        create trigger twice after insert on own begin select 1; select 2; end;
        begin;
        insert into t values (7);
        commit;
        insert into own values (3)
    """
    with a_database() as file, closing(sqlite3.connect(file)) as db:

        def rows(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[int]]:
            yield (1,)
            loop.call_soon_threadsafe(db.execute, "insert into t values (100)")
            time.sleep(0.05)
            loop.call_soon_threadsafe(loop.call_later, 0.05, db.commit)
            yield (2,)
            yield (3,)

        def work(loop: asyncio.AbstractEventLoop) -> object:
            with closing(sqlite3.connect(file)) as other:
                level = other.isolation_level
                other.execute("create temp table own (n)")
                loop.call_soon_threadsafe(db.execute, "insert into t values (200)")
                time.sleep(0.05)
                loop.call_soon_threadsafe(loop.call_later, 0.05, db.commit)
                other.executescript(script)
                told = [other.execute("select n from own").fetchall(), other.in_transaction]
                assert other.isolation_level == level
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.executemany("insert into t values (?)", rows(loop))
                return *told, other.execute("select n from t").fetchall()

        return await asyncio.to_thread(work, asyncio.get_running_loop())


async def a_connection_belongs_to_its_thread() -> object:
    class Mine(sqlite3.Connection):
        """A class of the program's own."""

    mine = sqlite3.connect(":memory:", factory=Mine)
    shared = sqlite3.connect(":memory:", check_same_thread=False)
    with closing(mine), closing(shared):
        told: list[object] = [type(mine).__name__, isinstance(mine, Mine)]
        told += [repr(each).partition(" at 0x")[0] for each in (mine, shared, shared.cursor())]
        cursor = mine.execute("select 1")
        for act in (lambda: mine.execute("select 1"), mine.commit, cursor.fetchone):
            try:
                await asyncio.to_thread(act)
            except sqlite3.ProgrammingError as exc:
                told.append(re.sub(r"\d+", "N", str(exc)))
        told.append(await asyncio.to_thread(lambda: [*shared.execute("select 1, 2")]))
        return told, cursor.fetchone()


# ---- applications -----------------------------------------------------------------------------


def application(folder: str, seen: list[object]) -> FastAPI:
    """Whatever FastAPI and Starlette do in threads."""
    Path(folder, "text").write_text("text" * 100_000)
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=folder))

    def opened() -> Iterator[int]:
        seen.append("opened")
        yield 5
        seen.append("closed")

    def later(number: int) -> None:
        seen.append((number, threading.current_thread() is threading.main_thread()))

    @app.get("/file")
    def file() -> FileResponse:
        return FileResponse(f"{folder}/text")

    @app.get("/number")
    def number(tasks: BackgroundTasks, value: int = Depends(opened)) -> int:
        tasks.add_task(later, value)
        return value

    return app


async def def_endpoints_files_and_background_tasks() -> object:
    seen: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        transport = httpx.ASGITransport(app=application(folder, seen))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            paths = ("/file", "/static/text", "/static/none", "/number")
            answers = [await client.get(path) for path in paths]
    return [(each.status_code, len(each.content)) for each in answers], sorted(map(str, seen))


async def the_test_client_in_a_coroutine() -> object:
    """It blocks the loop's thread, and serves from a thread with a loop of its own."""
    seen: list[object] = []
    with tempfile.TemporaryDirectory() as folder, TestClient(application(folder, seen)) as client:
        return client.get("/number").json(), sorted(map(str, seen))


# ---- what the standard library makes of threads -------------------------------------------------


async def futures_of_a_pool() -> object:
    released = threading.Event()

    def work(number: int) -> int:
        time.sleep(number / 1000)
        return number

    seen: list[object] = []
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(3) as wide:
        held, queued = pool.submit(released.wait), pool.submit(int)
        try:
            held.result(0.001)
        except TimeoutError:
            seen.append((queued.cancel(), queued.cancelled()))
        held.add_done_callback(lambda _: seen.append(threading.current_thread().name))
        released.set()
        seen.append([*pool.map(work, range(3))])
        done, _ = wait([wide.submit(work, each) for each in (3, 1, 2)])
        seen.append(sorted(each.result() for each in done))
    return seen


async def three_timers() -> list[int]:
    """The order in which they act."""
    seen: list[int] = []
    timers = [threading.Timer(each / 100, seen.append, [each]) for each in (5, 1, 3)]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join()
    return seen


async def timers_act_and_are_cancelled() -> object:
    never = threading.Timer(3600, print)
    never.start()
    # On stock the order is the machine's, if it is slow.
    seen = sorted(await three_timers())
    never.cancel()
    never.join()
    return seen, never.is_alive(), never.finished.is_set()


async def only_the_main_thread_handles_signals() -> object:
    def work() -> str:
        try:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        except ValueError as exc:
            return str(exc)
        return "none"

    return await asyncio.to_thread(work)


class Cached:
    made = 0

    @functools.cached_property
    def value(self) -> int:
        type(self).made += 1
        time.sleep(0.01)
        return type(self).made


async def a_cached_property_is_locked_before_3_12() -> object:
    Cached.made, cached = 0, Cached()
    values = await asyncio.gather(*(asyncio.to_thread(lambda: cached.value) for _ in range(2)))
    return values, Cached.made


PROGRAMS = [
    futures_of_a_pool,
    timers_act_and_are_cancelled,
    only_the_main_thread_handles_signals,
    a_cached_property_is_locked_before_3_12,
    def_endpoints_files_and_background_tasks,
    the_test_client_in_a_coroutine,
    connections_wait_for_each_other,
    who_reads_and_wants_to_write_is_not_let_wait,
    a_transaction_that_has_not_read_waits,
    what_waits_repeats_nothing,
    a_connection_may_not_want_to_wait,
    a_connection_belongs_to_its_thread,
    a_pools_threads_are_initialised,
    an_initialiser_that_fails_breaks_its_pool,
    an_executor_of_the_programs_own,
    asgiref_calls_back_and_forth,
    a_worker_is_not_the_main_thread,
    names_are_those_of_stock,
    a_pools_thread_keeps_its_identity,
    a_lock_is_kept_from_job_to_job,
    values_are_of_one_thread,
    a_local_with_init_is_made_in_each_thread,
    an_init_that_fails_is_tried_anew,
    a_local_made_in_a_worker_is_met_by_the_loop,
    slots_are_shared_and_defaults_are_the_classes,
    errors_of_a_local_are_those_of_stock,
    a_thread_lives_and_ends,
    a_thread_that_runs_is_alive,
    misuse_raises_what_stock_raises,
    subclasses_and_timers_run,
    an_exception_goes_to_the_excepthook,
    a_thread_and_the_loop_exclude_each_other,
    a_thread_calls_the_loop,
    anyio_works_in_threads,
    a_loop_within_a_thread,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_thread_is_what_it_is_on_stock(program: Program) -> None:
    """Each program returns in natural order what it returns on stock Python."""
    assert simulated(program, departures=0) == [on_stock(program)]


def test_timers_act_in_the_order_of_their_times() -> None:
    """In natural order a thread's timers act when their time has come, whichever began first."""
    assert simulated(three_timers, departures=0) == [[1, 3, 5]]


@pytest.mark.parametrize(
    "program",
    [
        a_worker_is_not_the_main_thread,
        values_are_of_one_thread,
        a_local_with_init_is_made_in_each_thread,
        a_lock_is_kept_from_job_to_job,
        a_thread_lives_and_ends,
        a_thread_and_the_loop_exclude_each_other,
    ],
    ids=lambda program: program.__name__,
)
def test_it_is_so_under_every_schedule_nearby(program: Program) -> None:
    """With one departure anywhere, these return the same."""
    assert simulated(program, departures=1) == [on_stock(program)]


def test_a_loop_in_a_thread_that_others_call_runs() -> None:
    """The blocking portal of anyio, and with it TestClient, answer from a thread of their own."""
    assert simulated(a_loop_that_others_call, departures=0) == [(False, None)]


# ---- what is left behind, and what is refused -------------------------------------------------


def test_nothing_is_left_of_a_thread_that_never_ends() -> None:
    """At the program's end its threads end where they stand, and threading knows them no more."""
    before = threading.enumerate()
    left: list[threading.Thread] = []
    ended: list[str] = []

    def for_ever(name: str) -> None:
        BEFORE.value = name
        try:
            threading.Event().wait()
        finally:
            ended.append(f"{name} {BEFORE.value}")

    async def program(world: World) -> None:
        for daemon in (True, False):
            left.append(threading.Thread(target=for_ever, args=(str(daemon),), daemon=daemon))
            left[-1].start()
        await asyncio.to_thread(int)
        await asyncio.sleep(1)
        world.check([each.is_alive() for each in left] == [True, True], "they are alive")

    for _ in range(2):
        left.clear()
        outcome = run(program)
        assert (outcome.violation, outcome.error) == (None, None)
        assert [each.name for each in left] == ["Thread-1 (for_ever)", "Thread-2 (for_ever)"]
        assert [each.is_alive() for each in left] == [False, False]
        left[0].join()
        assert threading.enumerate() == before
    assert sorted(ended) == ["False False", "False False", "True True", "True True"]
    assert not hasattr(BEFORE, "value")


def test_names_count_on_afterwards() -> None:
    """What an execution names changes nothing for the process."""
    _count_names_from_the_start()

    async def program(world: World) -> None:
        world.check(threading.Thread().name == "Thread-1", "it counts anew")

    assert threading.Thread().name == "Thread-1"
    assert run(program).violation is None
    assert threading.Thread().name == "Thread-2"


def test_what_is_replaced_is_put_back() -> None:
    """Names in modules, and the methods of classes derived from threading.local."""

    def held() -> list[object]:
        names = threading.local, threading.get_ident, _thread._local, _thread.get_ident
        return [*names, Lock, local, get_ident, dict(vars(Counted)), dict(vars(Slotted))]

    before = held()

    async def program(world: World) -> None:
        await asyncio.to_thread(lambda: COUNTED_BEFORE.value)
        world.check(threading.local is SimLocal, "it is replaced meanwhile")
        world.check(isinstance(BEFORE, threading.local), "those from before are of it, too")

    Counted.made = 0
    before = held()
    assert run(program).violation is None
    Counted.made = 0
    assert held() == before


def test_a_local_that_nobody_holds_frees_its_values() -> None:
    """The values of a thread go when it ends, those of the others with the local."""

    class Value:
        pass

    def values() -> int:
        return sum(type(each) is Value for each in gc.get_objects())

    async def program(world: World) -> None:
        own = threading.local()
        own.value = Value()
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, setattr, own, "value", Value())
            thread = threading.Thread(target=setattr, args=(own, "value", Value()))
            thread.start()
            thread.join()
            del thread
            before = values()
            del own
            world.check((before, values()) == (2, 0), "both are freed", f"{before}, {values()}")

    assert run(program).violation is None


def test_an_exception_that_ends_a_thread_is_a_row_of_the_chart() -> None:
    """By default it is no violation, as on stock, and nothing is printed for each execution."""

    def fail() -> None:
        raise LookupError("of the thread")

    async def program(world: World) -> None:
        thread = threading.Thread(target=fail, name="failing")
        thread.start()
        thread.join()
        await asyncio.sleep(0)

    with guarded():
        outcome = run_execution(program, NaturalOrder(), Bounds(), traced=True)
    assert outcome.violation is None
    assert outcome.recording is not None
    rows = [(each.actor, each.text) for each in outcome.recording.task_rows]
    line = fail.__code__.co_firstlineno + 1
    ends = f"ends with LookupError('of the thread') in fail (test_thread_identity.py:{line})"
    assert ("failing", ends) in rows
    assert ("failing", "ends") not in rows


def test_a_check_that_fails_in_a_thread_refutes() -> None:
    """A property is asked in any thread of the program."""

    async def program(world: World) -> None:
        thread = threading.Thread(target=world.check, args=(False, "it holds"))
        thread.start()
        await asyncio.sleep(1)

    report = explore(program)
    assert report.counterexample is not None
    assert report.counterexample.property == "it holds"


async def begins_without_an_object(world: World) -> None:
    _thread.start_new_thread(int, ())


async def waits_for_a_process(world: World) -> None:
    import os
    import selectors

    def wait() -> None:
        # As those of a process have it: nothing of it is simulated.
        one, other = os.pipe()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(one, selectors.EVENT_READ)
                selector.select()
        finally:
            os.close(one)
            os.close(other)

    await asyncio.to_thread(wait)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (begins_without_an_object, ["_thread.start_new_thread", "use threading.Thread"]),
        (
            waits_for_a_process,
            ["Selector.select in wait", "selector.select()", "world.outside"],
        ),
    ],
)
def test_what_is_outside_is_refused_by_name(
    program: Callable[[World], Awaitable[None]], words: list[str]
) -> None:
    """What would begin a real thread, or wait for real time, is an error that says where."""
    report = explore(program)
    assert report.verdict == "error", report.text
    assert [each for each in words if each not in report.reason] == []


def test_a_loop_in_a_thread_that_nobody_wakes_is_a_deadlock() -> None:
    """A second loop waits in virtual time: it hangs nothing, and its worker is named."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def program(world: World) -> None:
        await asyncio.to_thread(asyncio.run, for_ever())

    report = explore(program)
    assert report.counterexample is not None
    text = " ".join(report.counterexample.text.split())
    assert "no deadlock" in report.counterexample.property
    assert "worker 1 waits at select" in text


# ---- libraries --------------------------------------------------------------------------------


def test_a_lost_update_of_fastapis_def_endpoints_is_found() -> None:
    """Two requests to an endpoint that runs in a thread read the balance before either writes."""

    def application(balance: dict[str, int]) -> FastAPI:
        app = FastAPI()

        def account() -> dict[str, int]:
            return balance

        @app.post("/withdraw")
        def withdraw(held: dict[str, int] = Depends(account)) -> bool:  # noqa: B008
            seen = held["left"]
            threading.Event().wait(0.1)
            held["left"] = seen - 80
            return seen >= 80

        return app

    async def program(world: World) -> None:
        balance = {"left": 100}
        transport = httpx.ASGITransport(app=application(balance))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.post("/withdraw") for _ in range(2)))
        given = [each.json() for each in answers]
        world.check(sorted(given) == [False, True], "one of two is given", f"{given}")

    report = explore(program, max_executions=100)
    assert report.counterexample is not None, report.text
    assert report.counterexample.property == "one of two is given"


def test_a_local_ends_in_its_own_thread() -> None:
    """What a thread has kept in a `threading.local` is freed by that thread, at its end."""
    local, threads = threading.local(), []

    class Kept:
        def __del__(self) -> None:
            threads.append(threading.get_ident())

    async def program(world: World) -> None:
        def keep() -> None:
            local.kept = Kept()
            threads.append(threading.get_ident())

        threads.clear()
        thread = threading.Thread(target=keep)
        thread.start()
        thread.join()
        world.check(len(threads) == 2, "its end has freed it")
        world.check(len(set(threads)) == 1, "in the thread itself")

    report = explore(program, strategy="natural", max_executions=1)
    assert report.counterexample is None, report.text


_KNOWN = {threading.main_thread(): "main"}
_KNOWN_WEAKLY = weakref.WeakKeyDictionary({threading.main_thread(): "main"})
_MADE_BEFORE = threading.Thread(target=int)
_MANY = {_MADE_BEFORE}


def test_tables_of_threads_find_those_of_before() -> None:
    """A thread that was made before the execution hashes as it did, during it and afterwards."""
    kept: set[threading.Thread] = set()

    async def program(world: World) -> None:
        main = threading.current_thread()
        world.check(_KNOWN.get(main) == "main", "a dict finds it")
        world.check(main in _KNOWN_WEAKLY, "a weak one, too")
        world.check(_MADE_BEFORE in _MANY, "also one that was never begun")
        found = await asyncio.to_thread(lambda: _KNOWN.get(threading.main_thread()))
        world.check(found == "main", "in a worker as well")
        kept.add(main)

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert threading.main_thread() in kept


def test_sets_of_threads_are_in_the_order_of_their_making() -> None:
    """In every run, though on stock it hangs on addresses."""
    seen: set[tuple[int, ...]] = set()

    async def program(world: World) -> None:
        threads = [threading.Thread(target=int) for _ in range(20)]
        seen.add(tuple(threads.index(each) for each in set(threads)))

    assert explore(program, max_executions=1).verdict != "error"
    assert len(seen) == 1
