"""Who answers choice points: one small interface, five ways."""

from sim.schedulers.base import Scheduler
from sim.schedulers.bounded import DepartureBounded
from sim.schedulers.depth_first import DepthFirst
from sim.schedulers.natural import NaturalOrder
from sim.schedulers.random_walk import RandomWalk
from sim.schedulers.replay import Replay

__all__ = ["DepartureBounded", "DepthFirst", "NaturalOrder", "RandomWalk", "Replay", "Scheduler"]
