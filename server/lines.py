"""A line of the log, of its event, its fields and a sentence; text or JSON is made of it later."""

from __future__ import annotations

from registry.operations import Logged


def line(event: str, text: str = "", /, **fields: object) -> Logged:
    """text: a sentence for people, behind the fields."""
    return Logged(event, tuple(fields.items()), text)
