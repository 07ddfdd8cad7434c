"""Production with one line broken, or one safeguard lost: what the bench has to find."""

from __future__ import annotations

from sim.suspects.mutants.base import Mutant, broken
from sim.suspects.mutants.registry import REGISTRY_MUTANTS
from sim.suspects.mutants.server import SERVER_MUTANTS

MUTANTS: tuple[Mutant, ...] = (*REGISTRY_MUTANTS, *SERVER_MUTANTS)


def mutant_named(name: str) -> Mutant:
    """Raises ValueError if there is none."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    names = ", ".join(each.name for each in MUTANTS)
    raise ValueError(f"mutant {name!r} is not known; there are {names}")


__all__ = ["MUTANTS", "Mutant", "broken", "mutant_named"]
