"""Schedulers, which answer choice points: one small interface, and its implementations."""

from sim.schedulers.base import Divisible, Following, Once, Part, Scheduler
from sim.schedulers.cancel_everywhere import CancelEverywhere
from sim.schedulers.few_departures import FewDepartures
from sim.schedulers.natural import NaturalOrder
from sim.schedulers.only_kinds import OnlyKinds
from sim.schedulers.pct import PCT
from sim.schedulers.portfolio import Portfolio
from sim.schedulers.random_first import RandomFirst
from sim.schedulers.random_walk import RandomWalk
from sim.schedulers.reduction.reduced import Reduced
from sim.schedulers.replay import Replay
from sim.schedulers.staged import Staged
from sim.schedulers.states.matching import StateMatching
from sim.schedulers.swarm import Swarm
from sim.schedulers.tree_search import DepartureBounded, DepthFirst, TreeSearch

__all__ = [
    "PCT",
    "CancelEverywhere",
    "DepartureBounded",
    "DepthFirst",
    "Divisible",
    "FewDepartures",
    "Following",
    "NaturalOrder",
    "Once",
    "OnlyKinds",
    "Part",
    "Portfolio",
    "RandomFirst",
    "RandomWalk",
    "Reduced",
    "Replay",
    "Scheduler",
    "Staged",
    "StateMatching",
    "Swarm",
    "TreeSearch",
]
