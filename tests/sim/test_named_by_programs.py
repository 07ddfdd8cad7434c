"""What a module holds, and a program does not use, is nothing to that program."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sim import explore

MODULE = """
import sqlite3
import time

DATABASE = sqlite3.connect(":memory:")
TICKS = iter(time.time, None)
HANDLERS = []


def handler(function):
    HANDLERS.append(function)
    return function


class Store:
    def ask(self):
        return DATABASE.execute("select 1").fetchone()


def deep():
    return Store()


@handler
def registered():
    return next(TICKS)


class Kept:
    ticks = iter(time.time, None)


async def uses_none(world):
    world.check(len("ab") == 2, "it holds")


async def uses_a_class(world):
    world.check(deep() is not None, "it holds")


async def uses_a_global(world):
    world.check(TICKS is not None, "it holds")


async def uses_a_name(world):
    import held_by_a_module as own
    world.check(getattr(own, "TICKS") is not None, "it holds")


async def uses_whatever_there_is(world):
    world.check([*globals()] != [], "it holds")


async def uses_a_registered_function(world):
    world.check([*map(callable, HANDLERS)] == [True], "it holds")


async def uses_an_attribute(world):
    world.check(Kept.ticks is not None, "it holds")


def inner():
    async def uses_it_within(world, used=[registered]):
        world.check(used != [], "it holds")

    return uses_it_within


uses_it_within = inner()
"""

USED = {
    "uses_a_class": "DATABASE",
    "uses_a_global": "TICKS",
    "uses_a_name": "TICKS",
    "uses_whatever_there_is": "TICKS",
    "uses_a_registered_function": "TICKS",
    "uses_an_attribute": "Kept",
    "uses_it_within": "TICKS",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Anew for each test: a proof in this suite freezes what there is, and so hides it."""
    (tmp_path / "held_by_a_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "held_by_a_module", raising=False)
    made = importlib.import_module("held_by_a_module")
    yield made
    made.DATABASE.close()


def test_what_a_program_never_names_is_nothing_to_it(module: ModuleType) -> None:
    """Its module may have a database and an iterator over a clock for others."""
    report = explore(module.uses_none)
    assert report.verdict == "proved", report.text


@pytest.mark.parametrize("name", USED)
def test_what_it_may_use_is_named(name: str, module: ModuleType) -> None:
    """However deep, and however it comes to it."""
    report = explore(getattr(module, name))
    assert report.verdict == "inconclusive", report.text
    assert f"held_by_a_module.{USED[name]}" in report.reason
