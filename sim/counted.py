"""A number with its noun: one execution, two executions."""

from __future__ import annotations


def counted(number: float, noun: str, width: int = 0) -> str:
    """width: of the number, and of the noun where it is one of a column."""
    many = noun if number == 1 else f"{noun}s"
    return f"{number:{width}} {many:<{len(noun) + 1 if width else 0}}"


def in_words(number: float, noun: str) -> str:
    """As a sentence has it."""
    return f"one {noun}" if number == 1 else counted(number, noun)
