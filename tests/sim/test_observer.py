"""Who hears of what happens in an execution, and that the kernel knows none of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from sim import World, run
from sim.kernel.environment import Arrival
from sim.kernel.notices import Special
from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint
from sim.schedulers import NaturalOrder
from tests.executed import executed


class Listening(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.polls = 0

    def begin(self, loop: Any, world: World) -> None:
        self.heard.append("begin")
        loop.watch_steps()

    def end(self) -> None:
        self.heard.append("end")

    def poll_begins(self) -> None:
        self.polls += 1

    def poll_ends(self) -> None:
        self.polls -= 1

    def scheduled(self, callback: Any) -> None:
        self.heard.append("scheduled")

    def runs(self, handle: asyncio.Handle) -> None:
        self.heard.append("runs")

    def announced(self, arrival: Arrival) -> None:
        self.heard.append(f"announced {arrival.name}")

    def lands(self, arrival: Arrival) -> None:
        self.heard.append(f"lands {arrival.name}")

    def advances(self, to: float) -> None:
        self.heard.append(f"advances to {to:.0f}")

    def chose(self, point: ChoicePoint, option: int) -> None:
        self.heard.append(f"chose {point.options[option].name}")

    def uses(self, name: tuple[object, ...], *, is_write: bool) -> None:
        self.heard.append(f"{'writes' if is_write else 'reads'} {name[1]}")

    def meets(self, special: Special) -> None:
        self.heard.append(special.name)


class Offering(NaturalOrder):
    """Natural order, with an observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def observer(self) -> Observer:
        return self._observer


async def program(world: World) -> None:
    """Waits for an outside event, sleeps, chooses, shares something, and runs a thread."""
    await world.outside("a")
    await asyncio.sleep(1)
    world.choose("which", ["one", "two"])
    shared = world.shared("box")
    shared.read()
    shared.write()
    await asyncio.to_thread(int)


def test_an_observer_hears_what_happens() -> None:
    """Each hook is called, in the order of the events; nothing of the draining is a surprise."""
    listening = Listening()
    outcome = executed(program, Offering(listening))
    told = [each for each in listening.heard if each not in ("scheduled", "runs")]
    assert outcome.error is None
    assert told[:5] == ["begin", "announced a", "lands a", "advances to 1", "chose which: one"]
    assert told[5:8] == ["reads box", "writes box", "WORKER_THREADS"]
    assert told[-1] == "end"
    assert listening.polls == 0
    assert listening.heard.count("runs") > 5


def test_an_execution_is_the_same_with_any_observer() -> None:
    """The choices of an execution that is followed are those of one that is not."""
    alone = run(program)
    followed = executed(program, Offering(Listening()))
    assert alone.choices == followed.choices
    assert (alone.labels, alone.bounds_hit) == (followed.labels, followed.bounds_hit)


def test_the_kernel_knows_no_search() -> None:
    """To run an execution imports no scheduler, no history, no reader of states."""
    loaded = "import sys, sim.kernel.execution; print(*(m for m in sys.modules if m[:4] == 'sim.'))"
    found = subprocess.run(
        [sys.executable, "-c", loaded], check=True, capture_output=True, text=True
    ).stdout.split()
    assert [each for each in found if not each.startswith("sim.kernel")] == []
