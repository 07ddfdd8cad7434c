"""The module that runs a registry in a scenario, written for a self-contained file."""

from __future__ import annotations

import inspect

from sim.bench.entry import Entry
from sim.bench.scenarios.client import ClientSize
from sim.bench.scenarios.sized import Size
from sim.bench.simulation.scenario import PREFIX as SIMULATED
from sim.bench.subjects.mutants import mutant_of
from sim.bench.subjects.mutants.base import Undoable
from sim.export.sources import Bundle, NotExportable, bundle_of_entry


def bundle_of_bench(name: str) -> Bundle:
    """With all that it imports. Raises NotExportable for what no file can contain."""
    entry = Entry.parse(name)
    if entry.level == "registry":
        return bundle_of_entry(_source(entry))
    raise NotExportable(
        f"a schedule of level {entry.level} cannot be forced on stock asyncio: the network, "
        f"the clients and Ollama are SimPy processes there. Those of the registry and of programs "
        f"of your own can"
    )


def _source(entry: Entry) -> str:
    """The module that makes the program of a registry and a scenario."""
    cls = entry.registry_class
    return (
        f"from {cls.__module__} import {cls.__qualname__}\n"
        f"{_scenario_source(entry)}"
        f"{_mutant_source(entry)}\n"
        f"program = scenario.program_for({cls.__qualname__})\n"
    )


def _scenario_source(entry: Entry) -> str:
    """The lines that make its `scenario`. Raises NotExportable."""
    why = None
    if entry.scenario.startswith(SIMULATED):
        why = "the modules that draw its plan need the server, which no file can carry"
    elif Size.parse(entry.scenario) or ClientSize.parse(entry.scenario):
        why = "its outside events are announced to SimPy, and answered within a poll"
    if why is not None:
        raise NotExportable(
            f"{entry.scenario} cannot be forced on stock asyncio: {why}. The scenarios by name of "
            f"`onestream check` can"
        )
    return (
        f"from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS\n"
        f"scenarios = {{each.name: each for each in REGISTRY_SCENARIOS}}\n"
        f"scenario = scenarios[{entry.scenario!r}]\n"
    )


def _mutant_source(entry: Entry) -> str:
    """The lines that break production, where it is a mutant that is exported."""
    mutant = mutant_of(entry.registry)
    if mutant is None:
        return ""
    module = inspect.getmodule(mutant.breaks)
    if mutant.level != "registry" or module is None:
        raise NotExportable(
            f"mutant {mutant.name} breaks the server, which no file can carry; mutants of the "
            f"registry can be forced on stock asyncio"
        )
    return (
        f"from {Undoable.__module__} import {Undoable.__name__}\n"
        f"from {module.__name__} import {mutant.name}\n\n"
        f"{mutant.name}({Undoable.__name__}())\n"
    )
