"""The two levels at which the bench plays a registry, and what they look like in a schedule."""

from __future__ import annotations

LEVELS = ("registry", "server")


def is_of_the_bench(subject: str) -> bool:
    """Whether it is `LEVEL:SCENARIO:REGISTRY`, and not somebody else's `MODULE:NAME`."""
    level, *others = subject.split(":", 2)
    return level in LEVELS and len(others) == 2
