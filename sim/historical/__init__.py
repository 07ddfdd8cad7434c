"""Bugs that others have reported, as programs: what `onestream bugs` explores."""

from sim.historical import gh_86296, gh_112202, gh_116720
from sim.historical.base import HistoricalBug

HISTORICAL_BUGS: tuple[HistoricalBug, ...] = (gh_86296.BUG, gh_112202.BUG, gh_116720.BUG)

__all__ = ["HISTORICAL_BUGS", "HistoricalBug"]
