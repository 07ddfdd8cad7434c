"""The hunt for a line at which nothing is caught: it leaves the tracer as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from sim.kernel.uncaught import Hunt


def traces(frame: FrameType, event: str, arg: Any) -> None:
    """Of somebody else, a debugger."""


def traces_too(frame: FrameType, event: str, arg: Any) -> None:
    """That which comes after it."""


@pytest.fixture(autouse=True)
def tracer() -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(traces)
    yield
    sys.settrace(before)


def test_a_hunt_that_has_not_begun_ends_nothing() -> None:
    """The tracer of somebody else stays."""
    Hunt(None, lambda: None).end()
    found = sys.gettrace()
    assert found is traces


def test_a_hunt_ends_once() -> None:
    """It puts back what was there before it, and a second end nothing that is gone by then."""
    hunt = Hunt(None, lambda: None)
    hunt.begin()
    during = sys.gettrace()
    hunt.end()
    after = sys.gettrace()
    sys.settrace(traces_too)
    hunt.end()
    later = sys.gettrace()
    assert during not in (traces, None)
    assert (after, later) == (traces, traces_too)
