"""For all tests: Hypothesis's profiles, the same examples in every run, or more with `long`; and
that no test leaves a running execution, or a thread, which would be seen in another one."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _keep_bytecode(folder: Path) -> None:
    """For this process, and for those that tests start: without it each of some hundred servers and
    commands would compile all that it imports, which takes it longer than all the rest.

    Where bytecode is kept anyway, it stays where Python puts it.
    """
    if sys.dont_write_bytecode:
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


_keep_bytecode(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")

from hypothesis import settings  # noqa: E402

# Helpers explain a failed assert as test modules do: all modules of these rooms are rewritten.
ROOMS = [
    "attack",
    "benchmarks",
    "clients",
    "pages",
    "registry",
    "schedules",
    "server",
    "sim",
    "suites",
]
MODULES = ["copy_in_place", "executed", "late_loop", "limits"]
pytest.register_assert_rewrite(*(f"tests.{each}" for each in ROOMS + MODULES))

from tests.limits import AMPLE_S, HANGS_S  # noqa: E402

# For the tests of our own plugin.
pytest_plugins = "pytester"

settings.register_profile("default", derandomize=True, database=None, deadline=None)
settings.register_profile("long", settings.get_profile("default"), max_examples=2000)
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # A process of pytest-xdist has a thread that reads its commands, as long as it lives, and
        # CPython 3.15 counts it at every fork. `_no_thread_is_left` finds all others.
        config.addinivalue_line(
            "filterwarnings",
            "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning",
        )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is imported here goes again: looked through by the collector each time, it takes
    every process a second and a half longer.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What all test modules have imported is passed over from now on by the collector, and by what
    asks it for all objects: each exploration with a thread does, for its `threading.local`s. So
    those that there are are found first.
    """
    found = sys.modules.get("sim.kernel.threads.local_values")
    if found is not None:
        found.here.locals = found.here.locals or found.Locals()
        found.here.locals.find_all()
    entropy = sys.modules.get("sim.kernel.isolation.entropy")
    if entropy is not None:
        entropy.find_held_clocks()
    _let_hypothesis_draw()
    gc.collect()
    gc.freeze()
    # Else a search that would prove collects, at each poll of some executions, all that the tests
    # have made since: what there is is frozen then, and remains so.
    at_polls = sys.modules.get("sim.kernel.collections_at_polls")
    if at_polls is not None:
        at_polls._frozen, at_polls._unfreeze = (lambda: 0), (lambda: None)


def _let_hypothesis_draw() -> None:
    """Its generator is made in its first test; it asks the collector who holds it, and from 3.14 on
    warns where that is frozen.
    """
    if "hypothesis" not in sys.modules:
        return
    from hypothesis import given, settings, strategies

    @settings(database=None, max_examples=1)
    @given(strategies.none())
    def draws(_: None) -> None:
        pass

    draws()


# Recordings and hosts replace methods of these while an execution runs, one around the other.
_REPLACED_IN = (
    *(asyncio.Lock, asyncio.Event, asyncio.Queue, asyncio.Condition, asyncio.Semaphore),
    asyncio.Barrier,
)
_AS_THEY_ARE = {cls: dict(vars(cls)) for cls in _REPLACED_IN}


@pytest.fixture(autouse=True)
def _asyncio_is_what_it_was() -> Iterator[None]:
    """A later test would note who holds a lock, or refuse who uses it, without knowing why."""
    yield
    for cls, before in _AS_THEY_ARE.items():
        now = vars(cls)
        left = [name for name in before if now.get(name) is not before[name]]
        assert not left, f"asyncio.{cls.__name__} was not put back: {left}"


@pytest.fixture(autouse=True)
def _no_execution_is_left() -> Iterator[None]:
    yield
    # Looked up late: tests of the plugin see what is imported, and when.
    current = sys.modules.get("sim.kernel.current")
    if current is not None:
        assert not current.executions, f"executions that still run: {current.executions}"
        assert not current.guards_by_thread, "what executions replace was not put back"


@pytest.fixture(autouse=True)
def _copies_are_in_place(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unless the module is marked `fresh_copies`: what its programs keep is what it is about."""
    searching = sys.modules.get("sim.exploration.search")
    if searching is None:
        yield
        return
    from sim.exploration import fresh_copy
    from tests.copy_in_place import CopyInPlace

    with pytest.MonkeyPatch.context() as patch:
        # A fork of this process may wait for long on a machine that does something else.
        patch.setattr(fresh_copy, "ANSWER_S", HANGS_S)
        if not request.node.get_closest_marker("fresh_copies"):
            patch.setattr(searching, "FreshCopy", CopyInPlace)
        yield


@pytest.fixture(autouse=True)
def _time_is_ample() -> Iterator[None]:
    """A search that names no budget has as long as it takes, on however busy a machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sim.exploration.search", "sim.exploration.request"):
            if name in sys.modules:
                patch.setattr(sys.modules[name], "BUDGET_S", AMPLE_S)
        yield


@pytest.fixture(autouse=True)
def _other_tests_hold_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """A proof by states reads what all modules hold but installed ones: here a second and more, for
    the other tests. They are left out, as if this module had been imported alone.
    """
    module_state = sys.modules.get("sim.exploration.module_state")
    if module_state is None:
        yield
        return
    all_of_them = module_state.own_modules
    own = getattr(request.module, "__name__", "")

    def is_of_others(module: ModuleType) -> bool:
        name = module.__name__
        return name.startswith("tests.") and ".test_" in name and name != own

    def read() -> list[ModuleType]:
        return [each for each in all_of_them() if not is_of_others(each)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_state, "own_modules", read)
        yield


# An upper bound on a busy machine, which decides nothing.
_THREAD_ENDS_S = 30


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """A later test may fork its jobs: CPython warns of it where other threads are about."""
    before = threading.enumerate()
    yield
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(_THREAD_ENDS_S)
            assert not thread.is_alive(), f"a thread is left: {thread}"
