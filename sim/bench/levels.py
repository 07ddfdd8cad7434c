"""The levels at which the bench runs a registry, and how a schedule names them."""

from __future__ import annotations

# Those of simulations, and of `check` where none is named.
LEVELS = ("registry", "server")
# With uvicorn, the transports and sockets in it: an execution takes some ten times as long.
STACK = "stack"
# Workers that share a store, each a process on a host of its own.
CLUSTER = "cluster"
CHECKED_LEVELS = (*LEVELS, STACK, CLUSTER)
MUTANT_LEVELS = (*LEVELS, CLUSTER)


def is_of_the_bench(subject: str) -> bool:
    """Whether it is `LEVEL:SCENARIO:REGISTRY`, and not a user's `MODULE:NAME`."""
    level, *others = subject.split(":", 2)
    return level in CHECKED_LEVELS and len(others) == 2
