"""What `needless_points.py` takes for granted of CPython's own modules, read from their source."""

from __future__ import annotations

import ast
import asyncio.futures
import asyncio.tasks
import concurrent.futures._base as futures
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOCKS_OF_FUTURES = ("_condition", "_AcquireFutures")


def places(source: str, is_one: Callable[[ast.AST], bool], *locks: str) -> set[str]:
    """In which functions there is one that does not lie in a `with` of one of these locks."""
    return set(_places(ast.parse(source), (), is_one, locks))


def _places(
    node: ast.AST,
    within: tuple[str, ...],
    is_one: Callable[[ast.AST], bool],
    locks: tuple[str, ...],
) -> Iterator[str]:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        within = (*within, node.name)
    if isinstance(node, ast.With):
        taken = " ".join(ast.unparse(each.context_expr) for each in node.items)
        if any(lock in taken for lock in locks):
            return
    if is_one(node):
        yield ".".join(within)
    for each in ast.iter_child_nodes(node):
        yield from _places(each, within, is_one, locks)


def reads_state(node: ast.AST) -> bool:
    is_state = isinstance(node, ast.Attribute) and node.attr == "_state"
    return is_state and isinstance(node.ctx, ast.Load)  # type: ignore[attr-defined]


def calls(name: str) -> Callable[[ast.AST], bool]:
    def is_one(node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        return getattr(node.func, "attr", getattr(node.func, "id", None)) == name

    return is_one


def asks(node: ast.AST) -> bool:
    """Whether a lock is held: `locked()`, or an `acquire` that does not wait."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    if node.func.attr == "locked":
        return True
    given = [*node.args[:1], *(each.value for each in node.keywords)]
    is_false = any(isinstance(each, ast.Constant) and not each.value for each in given)
    return node.func.attr in ("acquire", "acquire_lock") and is_false


def source_of(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")


def test_a_futures_state_is_read_with_its_lock() -> None:
    """But by what is called with all their locks, and, since 3.15, once a future is over."""
    found = places(source_of(futures), reads_state, *_LOCKS_OF_FUTURES)
    snapshot = {"Future._get_snapshot"} if sys.version_info >= (3, 15) else set()
    assert found == {"_create_and_install_waiters"} | snapshot
    unlocked = places(source_of(futures), calls("_create_and_install_waiters"), *_LOCKS_OF_FUTURES)
    assert unlocked == set()


def test_who_reads_it_without_is_a_callback_of_a_future_that_is_over() -> None:
    """asyncio copies what came of it, in a done callback: after the thread has let go of it."""
    package = Path(asyncio.__file__).parent
    sources = {each.stem: each.read_text(encoding="utf-8") for each in package.glob("*.py")}
    found = {
        f"{name}.{place}"
        for name, source in sources.items()
        for place in places(source, calls("_get_snapshot"))
    }
    has_one = hasattr(futures.Future, "_get_snapshot")
    assert found == ({"futures._copy_future_state"} if has_one else set())
    callers = places(sources["futures"], calls("_copy_future_state"))
    assert callers == {"_chain_future._set_state"}
    assert places(sources["futures"], calls("add_done_callback")) == {"_chain_future"}


@pytest.mark.parametrize("module", [queue, futures], ids=lambda each: each.__name__)
def test_nobody_asks_whether_an_inner_lock_is_held(module: ModuleType) -> None:
    """Neither queues nor futures do; pools ask a semaphore, and are simulated as a whole."""
    assert places(source_of(module), asks) == set()


def test_of_conditions_only_their_own_methods_ask() -> None:
    """Neither events nor semaphores nor barriers do, which have one."""
    found = places(source_of(threading), asks)
    of_class = {each: each.partition(".")[0] for each in found}
    assert not {"Event", "Semaphore", "BoundedSemaphore", "Barrier"} & {*of_class.values()}
    own = {each for each, cls in of_class.items() if cls == "Condition"}
    assert own == {"Condition._is_owned", "Condition.wait"}


READS = """
class Future:
    def done(self):
        with self._condition:
            return self._state == FINISHED
    def looks(self):
        with self._other:
            return self._state
"""
ASKS = """
class Event:
    def waits(self):
        self._lock.acquire()
        self._lock.acquire(True)
        self._lock.acquire(timeout=1)
    def is_free(self):
        return self._lock.acquire(blocking=False)
    def is_free_now(self):
        return self._lock.acquire(timeout=0)
    def is_held(self):
        return self._lock.locked()
"""


def test_a_reader_without_a_lock_would_be_found() -> None:
    """In sources of our own: one that has it, and one that has not."""
    assert places(READS, reads_state, *_LOCKS_OF_FUTURES) == {"Future.looks"}
    assert places(ASKS, asks) == {"Event.is_free", "Event.is_free_now", "Event.is_held"}
