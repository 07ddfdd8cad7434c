"""Every field of the kernel counts in a state, or is listed as without influence; and those do.

A field of neither kind would let two states be taken for one that go on differently.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
import simpy

from sim import Fault, World, explore
from sim.exploration.verdict import Verdict
from sim.kernel.current import Execution, executions
from sim.kernel.entropy import Entropy
from sim.kernel.environment import Environment
from sim.kernel.faults import Faults
from sim.kernel.hosts.clock import HostClock
from sim.kernel.hosts.disk import Disk
from sim.kernel.hosts.host import Host, Process
from sim.kernel.hosts.hub import Hub
from sim.kernel.hosts.process_loop import ProcessEnvironment
from sim.kernel.hosts.run import Run
from sim.kernel.network.sockets import SimSocket
from sim.schedulers import StateMatching


async def touch_everything(world: World) -> None:
    """What gives the loop, its threads and its environment all the fields that they can have."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, int)
    loop.set_exception_handler(None)
    world.declare(__file__)
    world.offer_cancels(lambda task: False)
    world.always("holds", lambda: True)
    await asyncio.to_thread(int)
    await loop.shutdown_default_executor()
    await world.outside("a")
    host = world.host("a")
    host.disk.write("log", b"x")
    process = host.run(asyncio.sleep, 1)
    await world.outside("b")
    run = process.run
    assert run is not None and world.hub is not None
    with socket.socket() as sock:
        kernel: tuple[Any, ...] = (loop, world.loop.threads, world.environment, world)
        kernel += (world.network, world.faults, sock, world.hub)
        kernel += (executions[-1], executions[-1].entropy)
        kernel += (host, host.disk, host.clock, process, run, run.loop, run.environment)
        for each in (*kernel, host.disk._files["log"]):
            world.reached(f"{type(each).__name__}: {silent_fields_of(each)}")


def silent_fields_of(each: Any) -> list[str]:
    """Those that are neither told nor listed as without influence."""
    cls = type(each)
    bases = [base for base in cls.__mro__ if "canonical_state" in vars(base)]
    told = set().union(*(names_in(base.__dict__["canonical_state"]) for base in bases))
    fields = {*getattr(each, "__dict__", ()), *inspect.get_annotations(cls)}
    fields.update(*(vars(base).get("__slots__", ()) for base in cls.__mro__))
    silent = fields - told - WITHOUT_INFLUENCE.get(cls, getattr(cls, "WITHOUT_INFLUENCE", set()))
    return sorted(name for name in silent if not callable(getattr(cls, name, None)))


WITHOUT_INFLUENCE: dict[type, set[str]] = {
    # Whose they are, from their making on; and what they were made with, which is told by Process.
    Faults: {"_loop"},
    SimSocket: {"_sim_network", "__weakref__"},
    Host: {"_hub", "_world"},
    Process: {"_hub", "_world", "_run_in"},
    Disk: {"_before", "_looked", "_misuse"},
    # Its other parts are told with it: see Hub.canonical_state. What it waits for is decided by
    # where it stands, and its threads make the state unique.
    Run: {"hub", "loop", "environment", "entropy", "clock", "faults", "host_name"}
    | {"greenlet", "waits_for", "_begin", "_inner", "_asyncgen_hooks", "_thread", "_trace"},
    # Hosts are told by World; what a fault finds is of the turn that it ends.
    Hub: {"_execution", "_make_loop", "_on_end", "_on_signal", "greenlet", "host_names"}
    | {"_failing", "failing_before", "is_over"},
    ProcessEnvironment: {"of_run", *Environment.WITHOUT_INFLUENCE},
    # The first two are told by themselves. How it is watched, and broken off, ends it at most.
    Execution: {"loop", "entropy", "is_watched", "is_alone", "is_violated", "serial", "os_thread"}
    | {"counter", "broken_off", "endless", "seen", "spent"},
    # Which readings are equal, and when time limits end, is asked beside a search. What was shown
    # the reader of states asks for. When a clock was read last counts at its instant alone.
    Entropy: {"environment", "seed", "epoch_s", "equal", "limits", "shown", "_last", "_wall_at_s"},
}


def names_in(function: Any) -> set[str]:
    """The attributes that a function reads, and those that functions within it do."""
    code = function.__code__
    nested = [each for each in code.co_consts if hasattr(each, "co_names")]
    return {*code.co_names, *(name for each in nested for name in each.co_names)}


def test_every_field_of_the_kernel_is_told_or_without_influence() -> None:
    """A new field is listed in one of the two: else states that differ there are taken for one."""
    report = explore(touch_everything, strategy="natural")
    names = ("SimLoop", "Threads", "Environment", "World", "Network", "Faults", "socket", "Hub")
    of_executions = ("Execution", "Entropy")
    of_hosts = ("Host", "Disk", "File", "HostClock", "Process", "Run", "ProcessLoop")
    expected = {f"{name}: []" for name in (*names, *of_executions, *of_hosts, "ProcessEnvironment")}
    assert report.labels == expected, report.text


# ---- of two states that differ in one of them alone ---------------------------------------------

Does = Callable[[World, int], object]


def _links(world: World, which: int) -> None:
    world.network.link("localhost", "far", latency_s=which / 10)


def _cuts(world: World, which: int) -> None:
    world.network.cut("localhost", "far" if which == 1 else "further")


def _heals(world: World, which: int) -> None:
    world.network.cut("localhost", "far")
    if which == 1:
        world.network.heal("localhost", "far")


def _may_fail(world: World, which: int) -> None:
    world.network.may_fail(Fault.RESET if which == 1 else Fault.LOST)


def _may_fail_at(world: World, which: int) -> None:
    world.network.may_fail(Fault.RESET, port=which)


def _may_part(world: World, which: int) -> None:
    world.network.may_part("localhost", "far", for_s=which)


def _may_part_from(world: World, which: int) -> None:
    world.network.may_part("localhost", "far" if which == 1 else "further", for_s=1)


def _parts(world: World, which: int) -> None:
    world.network._part(frozenset(("localhost", "far" if which == 1 else "further")), 1)


def _has_fewer_faults(world: World, which: int) -> None:
    world.faults.faults_max = which


def _has_had_a_fault(world: World, which: int) -> None:
    world.faults.taken = which - 1


def _sets(name: str, one: object, other: object) -> Does:
    def sets(world: World, which: int) -> None:
        setattr(world.network, name, one if which == 1 else other)

    sets.__name__ = f"sets_{name}"
    return sets


def _hears_at_once(receiver: object) -> bool:
    return True


def _switches_the_collector(world: World, which: int) -> None:
    (gc.enable if which == 1 else gc.disable)()


def _holds_a_descriptor(world: World, which: int) -> None:
    """The next has another number."""
    for _ in range(which):
        socket.socket().close()


CONDITIONS: tuple[Does, ...] = (
    *(_links, _cuts, _heals, _may_fail, _may_fail_at, _may_part, _may_part_from, _parts),
    *(_has_fewer_faults, _has_had_a_fault, _holds_a_descriptor, _switches_the_collector),
    _sets("latency_s", 0.1, 0.2),
    _sets("late_max_s", 1.0, 2.0),
    _sets("look_up_s", 1.0, 2.0),
    _sets("buffer_bytes", 10, 20),
    _sets("may_cut", True, False),
    _sets("at_once", None, _hears_at_once),
)


def meetings(does: Does) -> StateMatching:
    """The search of a program that chooses one of two, does something, and forgets its choice."""

    async def program(world: World) -> None:
        for at, name in enumerate(("far", "further"), 2):
            world.network.machine(name, f"10.0.0.{at}")
        does(world, world.choose("which", (1, 2)))
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in ("a", "b")))

    search = StateMatching()
    report = explore(program, strategy=search, max_executions=1000)
    assert report.verdict == Verdict.PROVED, report.text
    assert search.opaque == set()
    return search


def test_an_environment_has_all_that_simpy_sets() -> None:
    """It sets SimPy's fields itself; kinds of events, which it does not bind, bind themselves."""
    own = Environment()
    missing = vars(simpy.Environment()).keys() - vars(own).keys()
    assert missing == {"process", "timeout", "event", "all_of", "any_of"}
    assert all(getattr(own, name).__self__ is own for name in missing)
    fresh = simpy.Environment()
    assert (own._now, own._queue, own.active_process, next(own._eid)) == (
        *(fresh._now, fresh._queue, fresh.active_process, next(fresh._eid)),
    )


def test_where_nothing_is_done_states_are_met_again() -> None:
    """The control."""
    assert meetings(lambda world, which: None).met_again > 0


@pytest.mark.parametrize("does", CONDITIONS)
def test_conditions_tell_states_apart(does: Does) -> None:
    """Two that differ in a fault that may happen, a budget, a cut or a switch are never matched."""
    assert meetings(does).met_again == 0


def test_a_clock_that_stands_is_told_by_what_it_shows() -> None:
    """Two that were stopped one after the other go on with another offset."""
    clocks = HostClock(), HostClock()
    for at, clock in enumerate(clocks, 5):
        clock.stop(at)
    one, other = (clock.canonical_state() for clock in clocks)
    assert one != other
