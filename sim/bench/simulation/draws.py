"""Seeded random generators: one for each purpose, so that none disturbs another."""

from __future__ import annotations

from random import Random  # noqa: TID251 - this is where the seed becomes a generator

__all__ = ["Random", "rng_for"]


def rng_for(*names: object) -> Random:
    """The same for the same names, in every process: a text is hashed by SHA-512, not by hash()."""
    return Random(":".join(map(str, names)))
