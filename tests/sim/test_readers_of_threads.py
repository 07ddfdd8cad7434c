"""What tells two states apart where it is a thread that knows it: each place on its stack."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from sim import explore
from sim.exploration.verdict import Verdict
from sim.kernel.world import World
from sim.schedulers import StateMatching
from sim.schedulers.states.frame_memory import UNREAD_FROM

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
    left = ["", "", ""]
    for _ in list(left):
        which -= 1
        if which == 0:
            hold()
            left.clear()
        elif left:
            left.pop()
        else:
            which += 1
            return 1 - which
    return 3 + which


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
    told = []
    box = [which]
    del which
    with suppress(ValueError):
        try:
            raise ValueError(box.pop())
        finally:
            hold()
    try:
        raise ValueError("3")
    except ValueError:
        told.append(0)
    return told[0]


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
    begun = threading.Event()
    waits = functools.partial(begun.wait, 10 + which)
    del which
    hold()
    waits()
    return 0


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
]


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


def test_what_a_thread_has_forgotten_makes_no_state() -> None:
    """The control: its states are met again, also where the thread stands."""
    forgotten, search = searched(nowhere)
    kept, _ = searched(in_a_local)
    assert search.opaque == set()
    assert forgotten.executions < kept.executions
