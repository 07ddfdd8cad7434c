"""Production with one line broken, or one safeguard removed: the bench has to find each."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from sim.bench.subjects.mutants.base import Mutant, broken, counterparts, replaced_by
from sim.bench.subjects.mutants.cluster import CLUSTER_MUTANTS
from sim.bench.subjects.mutants.registry import REGISTRY_MUTANTS
from sim.bench.subjects.mutants.server import SERVER_MUTANTS

MUTANTS: tuple[Mutant, ...] = (*REGISTRY_MUTANTS, *SERVER_MUTANTS, *CLUSTER_MUTANTS)
# Before its name, where a schedule names the registry.
PREFIX = "mutant-"


def mutant_named(name: str) -> Mutant:
    """Raises ValueError if there is none."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    names = ", ".join(each.name for each in MUTANTS)
    raise ValueError(f"mutant {name!r} is not known; there are {names}")


def mutant_of(registry: str) -> Mutant | None:
    """The mutant that a schedule names as its registry; None for a registry that is not one.

    Raises ValueError for an unknown mutant.
    """
    if not registry.startswith(PREFIX):
        return None
    return mutant_named(registry.removeprefix(PREFIX))


def broken_as(registry: str) -> AbstractContextManager[None]:
    """In the block production has the bug of the mutant; unchanged for any other registry."""
    mutant = mutant_of(registry)
    return nullcontext() if mutant is None else broken(mutant)


__all__ = [
    "MUTANTS",
    "PREFIX",
    "Mutant",
    "broken",
    "broken_as",
    "counterparts",
    "mutant_named",
    "mutant_of",
    "replaced_by",
]
