"""What decides about nothing that is to come, and so is no part of a state: see sim/state.py."""

from __future__ import annotations

LEFT_OUT: dict[type, tuple[str, ...]] = {}


def leave_out(cls: type, *names: str) -> None:
    """These attributes of the class are told by a log line, say, and by nothing else."""
    LEFT_OUT[cls] = names
