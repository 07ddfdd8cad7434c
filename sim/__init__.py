"""A deterministic simulator and model checker for asyncio programs."""

from sim.counterexample import Counterexample
from sim.errors import NotSimulated, ScheduleDoesNotFit, Stuck
from sim.exploration import Report, explore
from sim.runner import EventLoopPolicy, new_event_loop
from sim.world import World

__all__ = [
    "Counterexample",
    "EventLoopPolicy",
    "NotSimulated",
    "Report",
    "ScheduleDoesNotFit",
    "Stuck",
    "World",
    "explore",
    "new_event_loop",
]
