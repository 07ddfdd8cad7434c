"""The two levels at which the bench runs a registry, and how a schedule names them."""

from __future__ import annotations

LEVELS = ("registry", "server")


def is_of_the_bench(subject: str) -> bool:
    """Whether it is `LEVEL:SCENARIO:REGISTRY`, and not a user's `MODULE:NAME`."""
    level, *others = subject.split(":", 2)
    return level in LEVELS and len(others) == 2
