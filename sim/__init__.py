"""A deterministic simulator and model checker for asyncio programs."""

from sim.counterexample import Counterexample
from sim.errors import NotSimulated, ScheduleDoesNotFit
from sim.exploration import Report, explore
from sim.world import World

__all__ = ["Counterexample", "NotSimulated", "Report", "ScheduleDoesNotFit", "World", "explore"]
