"""The classes and objects that there are, and which of them are constants of an exploration."""

from __future__ import annotations

import asyncio
import threading
from random import Random

import pytest

from sim import World, explore
from sim.exploration.verdict import Verdict
from sim.kernel.living import classes_below, objects_of
from sim.kernel.threads.local_values import Locals
from sim.schedulers import StateMatching
from sim.schedulers.states import abstraction, object_readers


class _WithoutHash(type):
    """As of an ORM whose classes are compared by what they say."""

    def __eq__(cls, other: object) -> bool:
        raise AssertionError("asked whether it is another")

    __hash__ = None  # type: ignore[assignment]


def test_a_class_that_cannot_be_hashed_is_found_and_disturbs_nothing() -> None:
    """Whatever a metaclass says of equality, its objects are found, and those of others."""

    class Odd(metaclass=_WithoutHash):
        pass

    odd, local = Odd(), threading.local()
    assert any(each is Odd for each in classes_below(object))
    assert [each is odd for each in objects_of([Odd])] == [True]
    assert any(each is local for each in objects_of([type(local)]))
    Locals().find_all()


class Application:
    """Holds what cannot be read."""

    def __init__(self) -> None:
        self.random = Random(1)


@pytest.mark.parametrize("is_met", [True, False])
def test_what_is_described_is_looked_for_where_it_was_met(
    is_met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second execution on a description is a constant, so states that hold it match."""
    monkeypatch.setattr(abstraction, "DESCRIPTIONS", set(abstraction.DESCRIPTIONS))
    abstraction.describe(Application)
    monkeypatch.setattr(object_readers, "DESCRIPTIONS", abstraction.DESCRIPTIONS)
    application = Application() if is_met else None
    looked = []

    def noted(kinds: list[type]) -> list[object]:
        looked.append(Application in kinds)
        return objects_of(kinds)

    monkeypatch.setattr(object_readers, "objects_of", noted)

    async def program(world: World) -> None:
        async def holds(held: Application | None, name: str) -> None:
            await world.outside(f"{name}1", latest=0.0)
            await world.outside(f"{name}2", latest=0.0)
            del held

        await asyncio.gather(holds(application, "a"), holds(application, "b"))

    search = StateMatching()
    report = explore(program, strategy=search, max_executions=1000)
    assert report.verdict == Verdict.PROVED, report.text
    assert search.met_again > 0
    assert looked == [True] * is_met
    assert search.opaque == ({"random.Random"} if is_met else set())
