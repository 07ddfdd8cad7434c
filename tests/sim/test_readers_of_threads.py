"""What tells two states apart where it is a thread that knows it: each place on its stack."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sim import explore, new_event_loop
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.kernel.world import World
from sim.schedulers import StateMatching
from sim.schedulers.states.frame_memory import UNREAD_FROM
from tests.sim import helper_of_threads

pytestmark = pytest.mark.skipif(
    sys.version_info >= UNREAD_FROM, reason="no stack of a thread is read there"
)

Hold = Callable[[], object]
Keeps = Callable[[int, Hold], int]
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
values = threading.local()


def nowhere(which: int, hold: Hold) -> int:
    """The control: it has forgotten which it was."""
    del which
    hold()
    return 0


def in_a_local(which: int, hold: Hold) -> int:
    hold()
    return which


def in_the_name_of_a_local(which: int, hold: Hold) -> int:
    if which == 1:
        first = 0
    else:
        second = 0
    del which
    hold()
    try:
        return first + 1
    except UnboundLocalError:
        return second + 2


def in_a_cell(which: int, hold: Hold) -> int:
    def told() -> int:
        return which

    hold()
    return told()


def in_the_place_in_the_code(which: int, hold: Hold) -> int:
    if which == 1:
        del which
        hold()
        return 1
    del which
    hold()
    return 2


def in_a_loop_that_has_come_so_far(which: int, hold: Hold) -> int:
    came = 0
    for each in ("first", "second", "third"):
        which -= 1
        if which == 0:
            del each, which
            hold()
            which = 100
        elif which > 1:
            came += 1
    return 3 - came


def numbers() -> Iterator[int]:
    yield 1
    yield 2
    yield 3


def in_a_generator_of_a_for(which: int, hold: Hold) -> int:
    came = 0
    is_held = False
    for _ in numbers():
        if is_held:
            came += 1
        which -= 1
        if which == 0:
            is_held = True
            hold()
    return 3 - came


def in_a_generator_that_runs(which: int, hold: Hold) -> int:
    def generator() -> Iterator[int]:
        kept, box[:] = box[0], []
        hold()
        yield kept

    box = [which]
    del which
    return next(generator())


def in_a_delegating_generator(which: int, hold: Hold) -> int:
    def inner() -> Iterator[int]:
        kept, box[:] = box[0], []
        hold()
        yield kept

    def outer() -> Iterator[int]:
        yield from inner()

    box = [which]
    del which
    for told in outer():
        return told
    return 0


def popped(box: list[int]) -> int:
    return box.pop()


def zero(hold: Hold) -> int:
    hold()
    return 0


def as_an_operand_of_a_sum(which: int, hold: Hold) -> int:
    box = [which]
    del which
    return popped(box) + zero(hold)


def as_an_argument_of_a_call_to_come(which: int, hold: Hold) -> int:
    box = [which]
    del which
    return int.__add__(popped(box), zero(hold))


@contextmanager
def tells(which: int, told: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        told.append(which)


def in_a_with_block(which: int, hold: Hold) -> int:
    box, told = [which], list[int]()
    del which
    with tells(box.pop(), told):
        hold()
    return told[0]


class Enters:
    def __init__(self, which: int, hold: Hold) -> None:
        self.which, self.hold = which, hold

    def __enter__(self) -> int:
        self.hold()
        return self.which

    def __exit__(self, *_: object) -> None:
        self.hold()


def where_a_with_block_is_entered(which: int, hold: Hold) -> int:
    box = [which]
    del which
    with Enters(box.pop(), hold) as told:
        hold = int
        return told


class Leaves:
    def __init__(self, which: int, hold: Hold, told: list[int]) -> None:
        self.which, self.hold, self.told = which, hold, told

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> bool:
        self.hold()
        self.told.append(self.which)
        return True


def where_a_with_block_is_left(which: int, hold: Hold) -> int:
    box, told = [which], list[int]()
    del which
    with Leaves(box.pop(), hold, told):
        pass
    return told[0]


def where_a_with_block_is_left_by_what_it_raises(which: int, hold: Hold) -> int:
    box, told = [which], list[int]()
    del which
    with Leaves(box.pop(), hold, told):
        raise ValueError
    return told[0]


def in_what_is_being_handled(which: int, hold: Hold) -> int:
    try:
        raise ValueError(which)
    except ValueError:
        del which
        hold()
        try:
            raise
        except ValueError as exc:
            return int(exc.args[0])


def in_what_is_to_be_raised_again(which: int, hold: Hold) -> int:
    box = [which]
    del which
    try:
        try:
            raise ValueError(box.pop())
        finally:
            hold()
    except ValueError as exc:
        return int(exc.args[0])


def in_what_is_handled_below_another(which: int, hold: Hold) -> int:
    box = [which]
    del which
    try:
        raise ValueError(popped(box))
    except ValueError:
        try:
            raise KeyError
        except KeyError:
            hold()
        try:
            raise
        except ValueError as exc:
            return int(exc.args[0])


def in_a_thread_local(which: int, hold: Hold) -> int:
    values.which = which
    del which
    hold()
    return int(values.which)


def in_a_context_variable(which: int, hold: Hold) -> int:
    variable.set(which)
    del which
    hold()
    return variable.get()


def in_the_context_that_runs(which: int, hold: Hold) -> int:
    def told() -> int:
        hold()
        return variable.get()

    contexts = []
    for number in (1, 2):
        contexts.append(contextvars.copy_context())
        contexts[-1].run(variable.set, number)
    box = [contexts[which - 1]]
    del which
    return box.pop().run(told)


def in_an_object_that_is_begun(which: int, hold: Hold) -> int:
    class Begun:
        def __init__(self, box: list[int]) -> None:
            self.which = box.pop()
            hold()

    return Begun([which]).which


def in_the_arguments_of_a_partial(which: int, hold: Hold) -> int:
    def told(box: list[int], _: None) -> int:
        hold()
        return box.pop()

    given = functools.partial(told, [which], None)
    del which
    return functools.partial.__call__(given)


def in_how_long_it_waits(which: int, hold: Hold) -> int:
    begun_s, box = time.monotonic(), [10 + which]
    del which, hold
    threading.Event().wait(popped(box))
    return round(time.monotonic() - begun_s) - 10


def in_how_often_it_has_a_lock(which: int, hold: Hold) -> int:
    lock = threading.RLock()
    for _ in range(which):
        lock.acquire()
    del which
    hold()
    count = 0
    while getattr(lock, "_is_owned")():  # noqa: B009 - as Condition asks
        lock.release()
        count += 1
    return count


def in_a_queue(which: int, hold: Hold) -> int:
    waits: queue.Queue[int] = queue.Queue()
    waits.put(which)
    del which
    hold()
    return waits.get()


def in_a_coroutine_that_it_drives(which: int, hold: Hold) -> int:
    async def inner() -> int:
        hold()
        return 0

    async def outer(box: list[int]) -> int:
        return box.pop() + await inner()

    coroutine = outer([which])
    del which
    try:
        coroutine.send(None)
    except StopIteration as exc:
        return int(exc.value)
    return 0


# What C keeps of a call, and no frame.


def in_what_next_ends_with(which: int, hold: Hold) -> int:
    def none() -> Iterator[int]:
        hold()
        yield from ()

    box = [which]
    del which
    return next(none(), popped(box))


class Ends:
    """Tells which it was when it ends."""

    def __init__(self, which: int, told: list[int]) -> None:
        self.which, self.told = which, told

    def __del__(self) -> None:
        self.told.append(self.which)


def in_what_is_sent_and_let_go(which: int, hold: Hold) -> int:
    def generator() -> Generator[None, Ends, None]:
        sent = yield
        del sent
        hold()
        yield

    told = list[int]()
    box = [Ends(which, told)]
    del which
    begun = generator()
    next(begun)
    begun.send(box.pop())
    return told[0]


def in_what_a_partial_gives_no_more(which: int, hold: Hold) -> int:
    def told_by(ends: object) -> None:
        del ends
        hold()

    told = list[int]()
    box = [functools.partial(told_by, ends=Ends(which, told))]
    del which
    contextvars.Context().run(box.pop(), ends=None)
    return told[0]


def in_an_argument_that_c_keeps(which: int, hold: Hold) -> int:
    def lets_go(ends: object) -> None:
        del ends
        hold()

    told = list[int]()
    box = [Ends(which, told)]
    del which
    contextvars.Context().run(lets_go, box.pop())
    return told[0]


def in_an_argument_that_a_closure_lets_go(which: int, hold: Hold) -> int:
    def lets_go(*, ends: object) -> None:
        def let_go() -> None:
            nonlocal ends
            ends = None

        let_go()
        hold()

    told = list[int]()
    box = [Ends(which, told)]
    del which
    contextvars.Context().run(lets_go, ends=box.pop())
    return told[0]


class Waits:
    def __init__(self, hold: Hold) -> None:
        hold()


def begins(which: int) -> Callable[[Hold], object]:
    """A class, or what its call runs."""
    return Waits if which == 1 else Waits.__new__(Waits).__init__


def whether_a_class_is_called(which: int, hold: Hold) -> int:
    box = [begins(which)]
    del which
    made = box.pop()(hold)
    return 2 if made is None else 1


def whether_a_class_is_called_often(which: int, hold: Hold) -> int:
    def made_by(box: list[Callable[[Hold], object]], hold: Hold) -> object:
        return box.pop()(hold)

    for _ in range(50):
        made_by([Waits], int)
    box = [begins(which)]
    del which
    return 2 if made_by(box, hold) is None else 1


def whether_a_class_is_called_with_a_list(which: int, hold: Hold) -> int:
    box = [begins(which)]
    del which
    made = box.pop()(*[hold])
    return 2 if made is None else 1


def below_a_loop_of_its_own(which: int, hold: Hold) -> int:
    async def main() -> None:
        hold()

    def run(kept: int) -> int:
        loop = new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        return kept

    box = [which]
    del which
    return run(box.pop())


PLACES: list[Keeps] = [
    in_a_local,
    in_the_name_of_a_local,
    in_a_cell,
    in_the_place_in_the_code,
    in_a_generator_of_a_for,
    in_a_generator_that_runs,
    in_a_delegating_generator,
    as_an_operand_of_a_sum,
    as_an_argument_of_a_call_to_come,
    in_a_with_block,
    where_a_with_block_is_entered,
    where_a_with_block_is_left,
    where_a_with_block_is_left_by_what_it_raises,
    in_what_is_being_handled,
    in_a_thread_local,
    in_a_context_variable,
    in_the_context_that_runs,
    in_an_object_that_is_begun,
    in_a_loop_that_has_come_so_far,
    in_what_is_to_be_raised_again,
    in_what_is_handled_below_another,
    in_how_long_it_waits,
    in_how_often_it_has_a_lock,
    in_a_queue,
    in_a_coroutine_that_it_drives,
    in_what_next_ends_with,
    in_what_is_sent_and_let_go,
]

UNREAD: list[Keeps] = [
    in_the_arguments_of_a_partial,
    in_what_a_partial_gives_no_more,
    in_an_argument_that_c_keeps,
    in_an_argument_that_a_closure_lets_go,
    whether_a_class_is_called,
    whether_a_class_is_called_often,
    whether_a_class_is_called_with_a_list,
    below_a_loop_of_its_own,
]
"""Places that no reader finds, in this version or another: the state is unique there."""


def searched(keeps: Keeps) -> tuple[Any, StateMatching]:
    """Of a program whose thread keeps one of two things, and waits while there is a choice."""

    async def program(world: World) -> None:
        goes_on = threading.Event()
        box = [world.choose("which", (1, 2))]

        def run() -> int:
            return keeps(box.pop(), goes_on.wait)

        job = asyncio.create_task(asyncio.to_thread(run))
        await asyncio.sleep(0.1)
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in ("a", "b")))
        goes_on.set()
        world.reached(str(await job))

    search = StateMatching()
    report = explore(program, strategy=search, max_executions=3000)
    assert report.verdict == Verdict.PROVED, report.text
    return report, search


@pytest.mark.parametrize("keeps", PLACES)
def test_what_a_thread_keeps_tells_states_apart(keeps: Keeps) -> None:
    """Wherever on its stack, it tells what it kept, and each place can be read."""
    report, search = searched(keeps)
    assert report.labels == {"1", "2"}
    assert search.opaque == set()


@pytest.mark.parametrize("keeps", UNREAD)
def test_what_c_keeps_of_a_call_is_never_overlooked(keeps: Keeps) -> None:
    """Arguments that the callee let go, what a class has made, frames below a loop of its own."""
    report, _ = searched(keeps)
    assert report.labels == {"1", "2"}


def assert_same_labels(program: Program) -> None:
    """As plain search sees them; each state is read, and some are met again."""
    search = StateMatching(with_labels=True)
    report = explore(program, strategy=search, max_executions=5000)
    plain = explore(program, strategy="depth-first", max_executions=5000)
    assert report.verdict == plain.verdict == Verdict.PROVED, report.text
    assert report.labels == plain.labels
    assert len(plain.labels) == 2
    assert search.opaque == set()
    assert report.executions < plain.executions


def test_the_declared_line_at_which_a_thread_stands_tells_states_apart() -> None:
    """Nothing else does: what it has set was so before, and is what the loop changes."""

    async def program(world: World) -> None:
        world.declare(helper_of_threads.__file__)
        twice = helper_of_threads.Twice()
        thread = threading.Thread(target=twice.set_again)
        thread.start()
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in ("1", "2")))
        twice.value = 11
        thread.join()
        world.reached(str(twice.value))

    search = StateMatching(with_labels=True)
    report = explore(program, strategy=search, max_executions=5000)
    assert report.verdict == Verdict.PROVED, report.text
    assert report.labels == {"1", "11"}
    assert search.opaque == set()


def test_the_place_in_a_queue_of_threads_tells_states_apart() -> None:
    """Two wait for one condition, in either order, and the first of them is told."""

    async def program(world: World) -> None:
        condition, told = threading.Condition(threading.Lock()), list[str]()

        def waits(name: str) -> None:
            with threading.Lock():
                pass
            with condition:
                condition.wait()
                told.append(name)

        for name in "ab":
            threading.Thread(target=waits, args=(name,)).start()
        await asyncio.sleep(1)
        # A choice, at which both wait.
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in ("1", "2")))
        with condition:
            condition.notify()
        await asyncio.sleep(1)
        world.reached(str(told))

    assert_same_labels(program)


def test_what_a_thread_has_forgotten_makes_no_state() -> None:
    """The control: its states are met again, also where the thread stands."""
    forgotten, search = searched(nowhere)
    kept, _ = searched(in_a_local)
    assert search.opaque == set()
    assert forgotten.executions < kept.executions
